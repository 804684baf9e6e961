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

/// Of a job with this layout, before anything is frozen or thawed. Gradients of frozen parameters have addresses and no
/// memory, unless a level's is there at once; what such a level lands in (Communicator::LandingBytes) is not counted.
MemoryEstimate EstimateJobMemory(const OptimizerOptions& options, const ShardLayout& layout, const HostMap& map,
                                 const LevelTraits& traits, const GradientHandling& handling);

/// Adds to `estimate` the gradients of bucket b, and their local sums.
void AddGradients(const ShardLayout& layout, int b, bool local_sums, MemoryEstimate* estimate);
/// Sets in `estimate` what a rank keeps of its shards.
void SetState(const ShardState::Bytes& state, MemoryEstimate* estimate);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_JOB_MEMORY_H_
