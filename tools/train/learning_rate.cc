#include "shardstep/tools/train/learning_rate.h"

#include <algorithm>

namespace shardstep {
namespace {

/// cos(pi * x) for x in [0, 1], to about 1e-16: sine's series around the middle.
double CosinePi(double x) {
  constexpr double kPi = 3.14159265358979323846;
  const double y = kPi * (0.5 - x);
  const double square = y * y;
  double term = y;
  double sum = y;
  for (int n = 2; n <= 24; n += 2) {
    term = -term * square / (n * (n + 1));
    sum += term;
  }
  return sum;
}

}  // namespace

double LearningRate(const LearningRateSchedule& schedule, int64_t step) {
  if (step < schedule.warmup_steps) {
    return schedule.peak * static_cast<double>(step) / static_cast<double>(schedule.warmup_steps);
  }
  const int64_t decay_steps = std::max<int64_t>(1, schedule.steps - schedule.warmup_steps);
  const double progress =
      std::min(1.0, static_cast<double>(step - schedule.warmup_steps) / static_cast<double>(decay_steps));
  const double fall = 0.5 * (1.0 - CosinePi(progress));
  return schedule.peak * (1.0 - (1.0 - schedule.final_fraction) * fall);
}

}  // namespace shardstep
