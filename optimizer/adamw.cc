#include "shardstep/optimizer/adamw.h"

#include <cmath>

namespace shardstep {

double PowerBySquaring(double base, int64_t exponent) {
  double result = 1;
  for (double square = base; exponent > 0; exponent >>= 1, square *= square) {
    if ((exponent & 1) != 0) result *= square;
  }
  return result;
}

AdamWScalars MakeAdamWScalars(const AdamWOptions& options, double learning_rate, int64_t applied_step) {
  const double group_rate = learning_rate * options.learning_rate_factor;
  const double correction1 = 1 - PowerBySquaring(options.beta1, applied_step);
  const double correction2 = 1 - PowerBySquaring(options.beta2, applied_step);
  return {.beta1 = static_cast<float>(options.beta1),
          .one_minus_beta1 = static_cast<float>(1 - options.beta1),
          .beta2 = static_cast<float>(options.beta2),
          .one_minus_beta2 = static_cast<float>(1 - options.beta2),
          .lr_weight_decay = static_cast<float>(group_rate * options.weight_decay),
          .step_size = static_cast<float>(group_rate / correction1),
          .rbc2 = static_cast<float>(1 / std::sqrt(correction2)),
          .epsilon = static_cast<float>(options.epsilon)};
}

}  // namespace shardstep
