#ifndef SHARDSTEP_OPTIMIZER_ADAMW_H_
#define SHARDSTEP_OPTIMIZER_ADAMW_H_

#include <cstdint>

namespace shardstep {

/// AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, algorithm 2), as numeric contract
/// 4 orders its operations (adamw_formula-inl.h). One group's settings, as the user gives them.
struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.01;
  double learning_rate_factor = 1.0;

  bool operator==(const AdamWOptions&) const = default;
};

/// What a kernel multiplies with: computed in double, rounded to fp32 once each.
struct AdamWScalars {
  float beta1 = 0;
  float one_minus_beta1 = 0;
  float beta2 = 0;
  float one_minus_beta2 = 0;
  float lr_weight_decay = 0;  ///< lr_g * weight_decay
  float step_size = 0;        ///< lr_g / (1 - beta1^t)
  float rbc2 = 0;             ///< 1 / sqrt(1 - beta2^t)
  float epsilon = 0;
};

/// `base`^`exponent`, exponent >= 0, by square-and-multiply in double, lowest bit first; no libm, so every platform
/// gives the same bits.
double PowerBySquaring(double base, int64_t exponent);

/// `applied_step` t >= 1 counts this step and all earlier ones that were applied.
AdamWScalars MakeAdamWScalars(const AdamWOptions& options, double learning_rate, int64_t applied_step);

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_ADAMW_H_
