#ifndef SHARDSTEP_OPTIMIZER_SGD_H_
#define SHARDSTEP_OPTIMIZER_SGD_H_

namespace shardstep {

/// Stochastic gradient descent with momentum (Sutskever et al., "On the importance of initialization and momentum in
/// deep learning", ICML 2013, in the form that trainers know from PyTorch: weight decay is added to the gradient).
/// Operation by operation in sgd_formula-inl.h. One group's settings, as the user gives them.
struct SgdOptions {
  double momentum = 0.0;  ///< 0: no momentum is kept, 4 bytes per owned parameter less
  bool nesterov = false;  ///< needs momentum
  double weight_decay = 0.0;
  double learning_rate_factor = 1.0;

  bool operator==(const SgdOptions&) const = default;
};

/// What a kernel multiplies with: computed in double, rounded to fp32 once each.
struct SgdScalars {
  float momentum = 0;
  float weight_decay = 0;
  float learning_rate = 0;  ///< lr * learning_rate_factor
  bool nesterov = false;
};

SgdScalars MakeSgdScalars(const SgdOptions& options, double learning_rate);

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_SGD_H_
