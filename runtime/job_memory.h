#ifndef SHARDSTEP_RUNTIME_JOB_MEMORY_H_
#define SHARDSTEP_RUNTIME_JOB_MEMORY_H_

#include "shardstep/comm/levels.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/optimizer/shard_state.h"
#include "shardstep/runtime/memory_estimate.h"
#include "shardstep/runtime/options.h"
#include "shardstep/runtime/step_plan.h"

namespace shardstep {

/// The running sums that steps of `micro_steps` want.
ShardState::Sums SumsOf(const GradientHandling& handling);

/// Of a job with this layout. Gradients of frozen parameters have addresses and no memory.
MemoryEstimate EstimateJobMemory(const OptimizerOptions& options, const ShardLayout& layout, const HostMap& map,
                                 const LevelTraits& traits, const GradientHandling& handling);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_JOB_MEMORY_H_
