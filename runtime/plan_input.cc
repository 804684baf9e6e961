#include "shardstep/runtime/plan_input.h"

#include "shardstep/runtime/host_contributions.h"

namespace shardstep {

StepPlanInput MakePlanInput(const OptimizerOptions& options, const ParameterGroups& groups, const ShardLayout& layout,
                            const HostMap& map, int64_t micro_steps) {
  StepPlanInput input{.world_size = layout.world_size(),
                      .micro_steps = micro_steps,
                      .look_for_non_finite = options.non_finite != NonFinitePolicy::kIgnore,
                      .sum_group = options.sum_group,
                      .local_accumulation = options.accumulation == Accumulation::kLocal,
                      .sums_on_host = map.host_count() > 0 && PlanContributions(map, options).sums};
  for (int b = 0; b < layout.bucket_count(); ++b) input.active.push_back(groups.active(b));
  return input;
}

LevelTraits TraitsOf(const Communicator& host, const Communicator* network) {
  LevelTraits traits{.host = host.traits()};
  if (network != nullptr) traits.network = network->traits();
  return traits;
}

}  // namespace shardstep
