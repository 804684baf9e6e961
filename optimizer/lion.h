#ifndef SHARDSTEP_OPTIMIZER_LION_H_
#define SHARDSTEP_OPTIMIZER_LION_H_

namespace shardstep {

/// Lion (Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023, algorithm 2). Operation by
/// operation in lion_formula-inl.h. One group's settings, as the user gives them.
struct LionOptions {
  double beta1 = 0.9;
  double beta2 = 0.99;
  double weight_decay = 0.0;
  double learning_rate_factor = 1.0;

  bool operator==(const LionOptions&) const = default;
};

/// What a kernel multiplies with: computed in double, rounded to fp32 once each.
struct LionScalars {
  float beta1 = 0;
  float one_minus_beta1 = 0;
  float beta2 = 0;
  float one_minus_beta2 = 0;
  float lr_weight_decay = 0;
  float learning_rate = 0;  ///< lr * learning_rate_factor
};

LionScalars MakeLionScalars(const LionOptions& options, double learning_rate);

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_LION_H_
