#ifndef SHARDSTEP_TOOLS_TRAIN_LEARNING_RATE_H_
#define SHARDSTEP_TOOLS_TRAIN_LEARNING_RATE_H_

#include <cstdint>

namespace shardstep {

/// A linear warm-up and half a cosine.
struct LearningRateSchedule {
  double peak = 1e-3;
  int64_t warmup_steps = 0;     ///< peak is reached at this step
  int64_t steps = 1;            ///< peak * final_fraction is reached at this step and kept
  double final_fraction = 0.1;  ///< in [0, 1]
};

/// The learning rate of `step`, which counts from 1. A pure function without libm: the same bits on every machine, as
/// ranks of one job must agree on it.
double LearningRate(const LearningRateSchedule& schedule, int64_t step);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_TRAIN_LEARNING_RATE_H_
