#ifndef SHARDSTEP_RUNTIME_PLAN_INPUT_H_
#define SHARDSTEP_RUNTIME_PLAN_INPUT_H_

#include <cstdint>

#include "shardstep/comm/communicator.h"
#include "shardstep/comm/levels.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/runtime/options.h"
#include "shardstep/runtime/parameter_groups.h"
#include "shardstep/runtime/step_plan.h"

namespace shardstep {

/// What the plan of a job depends on; `map` has no hosts when there is one level.
StepPlanInput MakePlanInput(const OptimizerOptions& options, const ParameterGroups& groups, const ShardLayout& layout,
                            const HostMap& map, int64_t micro_steps);

/// `network` is nullptr when there is one level.
LevelTraits TraitsOf(const Communicator& host, const Communicator* network);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_PLAN_INPUT_H_
