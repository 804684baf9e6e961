#ifndef SHARDSTEP_TOOLS_PRECISION_MANY_UPDATES_H_
#define SHARDSTEP_TOOLS_PRECISION_MANY_UPDATES_H_

#include <cstdint>
#include <vector>

#include "shardstep/tools/precision/one_update.h"

namespace shardstep {

/// The weight after `step` updates, kept in four ways between updates.
struct WeightAtStep {
  int64_t step = 0;
  double exact = 0;  ///< never rounded
  Bf16 nearest;      ///< in bf16, rounded to nearest
  Bf16 stochastic;   ///< in bf16, rounded up or down at random
  float fp32 = 0;    ///< in fp32
};

struct ManyUpdatesOptions {
  int64_t steps = 10'000;            ///< in [1, kMaxUpdateSteps]
  int64_t stochastic_weights = 256;  ///< how many weights with random numbers of their own; the first is shown
  uint64_t seed = 1;
};
/// Up to here the exact weight is a double: with the default UpdateInputs a multiple of 2^-44 below 2^7.
inline constexpr int64_t kMaxUpdateSteps = 1'000'000;

struct ManyUpdates {
  std::vector<WeightAtStep> weights;  ///< step 0, some 200 steps on the way, the last one
  double stochastic_mean = 0;         ///< of the last step, over all stochastic weights
  double stochastic_deviation = 0;    ///< standard deviation of the same
  int64_t stochastic_weights = 0;
};
/// The update of `inputs` done again and again from the bf16 weight, with the same gradient.
ManyUpdates ComputeManyUpdates(const UpdateInputs& inputs, const ManyUpdatesOptions& options);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_PRECISION_MANY_UPDATES_H_
