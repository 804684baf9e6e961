#ifndef SHARDSTEP_TOOLS_BENCH_STEP_COST_H_
#define SHARDSTEP_TOOLS_BENCH_STEP_COST_H_

#include <cstdint>

#include "shardstep/optimizer/update_rule.h"

namespace shardstep {

/// What decides how many bytes a step has to move: not how we move them.
struct StepCase {
  int ranks = 1;
  int hosts = 1;  ///< with equally many ranks
  UpdateKind update;
  int64_t micro_steps = 1;
  bool two_passes = true;  ///< the norm, or inf and NaN, must be known before anything is updated
  bool private_weights = false;
  int64_t sum_group = 1;
  bool host_sum = false;   ///< hosts send sums rounded to bf16
  bool wire_sums = false;  ///< the network adds gradients up: what arrives is one slice, in bf16
};

/// Whether gradients are kept as an fp32 sum between passes: with several micro-steps, between hosts, or when that
/// moves fewer bytes than reading them twice.
bool KeepsSum(const StepCase& step);

/// Passes over gradients before the decision; and whether the update reads those of the last micro-step itself, because
/// they are still there and nothing had to be known before.
int64_t GradientPasses(const StepCase& step);
bool ReadsSlicesInUpdate(const StepCase& step);

/// Bytes per parameter that memory must move, over all ranks; bf16 weights and gradients (docs/performance.md). What a
/// network itself reads and writes is not counted.
struct MemoryCost {
  double gradients = 0;  ///< before the decision: sums, norm
  double update = 0;     ///< after it

  double total() const { return gradients + update; }
};
MemoryCost CountMemoryCost(const StepCase& step);

/// Bytes that each host sends, and receives, for `parameters` parameters.
struct WireCost {
  int64_t gradients = 0;  ///< before the decision
  int64_t weights = 0;    ///< after it
};
WireCost CountWireCost(const StepCase& step, int64_t parameters);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_STEP_COST_H_
