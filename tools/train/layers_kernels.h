#ifndef SHARDSTEP_TOOLS_TRAIN_LAYERS_KERNELS_H_
#define SHARDSTEP_TOOLS_TRAIN_LAYERS_KERNELS_H_

#include <cstdint>

#include "shardstep/comm/bf16.h"
#include "shardstep/tools/train/matmul.h"

namespace shardstep {

/// The types of one way to compute the model. Storage: weights and gradients as the optimizer keeps them. Operand: what
/// matrix products read, and what is kept of the forward pass. Real: everything else, sums and residuals included.
struct Bf16Route {
  using Storage = Bf16;
  using Operand = Bf16;
  using Real = float;
};
struct Fp32Route {
  using Storage = Bf16;
  using Operand = float;
  using Real = float;
};
/// The reference of tests.
struct DoubleRoute {
  using Storage = double;
  using Operand = double;
  using Real = double;
};

/// Everything the model does apart from matrix products: plain single-threaded loops, compiled for every SIMD target.
/// Matrices are contiguous, [rows, columns]. Sums have a fixed order, so all targets give the same bits.
template <typename Route>
struct LayerKernels {
  using Storage = typename Route::Storage;
  using Operand = typename Route::Operand;
  using Real = typename Route::Real;

  void (*load)(int64_t count, const Storage* in, Operand* out);
  /// Rounds once, to nearest even.
  void (*store)(int64_t count, const Real* in, Storage* out);
  void (*to_operand)(int64_t count, const Real* in, Operand* out);
  /// sums[j] = sum over rows of in[., j], in row order; out = in.
  void (*to_operand_and_sum_rows)(int64_t rows, int64_t columns, const Real* in, Operand* out, Real* sums);
  void (*add)(int64_t count, const Real* in, Real* sum);

  void (*add_bias)(int64_t rows, int64_t columns, const Real* in, const Storage* bias, Operand* out);
  /// out = residual + in + bias
  void (*add_bias_and_residual)(int64_t rows, int64_t columns, const Real* in, const Storage* bias,
                                const Real* residual, Real* out);
  /// out[i] = token[tokens[i]] + position[i]
  void (*embed)(int64_t rows, int64_t columns, const uint8_t* tokens, const Storage* token, const Storage* position,
                Real* out);

  /// mean and inverse_deviation: one per row, for the backward pass.
  void (*layer_norm)(int64_t rows, int64_t columns, const Real* in, const Storage* weight, const Storage* bias,
                     Operand* out, Real* mean, Real* inverse_deviation);
  /// in_gradient += ; weight_gradient and bias_gradient = .
  void (*layer_norm_backward)(int64_t rows, int64_t columns, const Real* in, const Real* mean,
                              const Real* inverse_deviation, const Storage* weight, const Real* out_gradient,
                              Real* in_gradient, Real* weight_gradient, Real* bias_gradient);

  /// x = in + bias; out = x * sigmoid(2u), u = sqrt(2/pi) * (x + 0.044715 x^3), which is the tanh form of GELU; slope =
  /// its derivative.
  void (*gelu)(int64_t rows, int64_t columns, const Real* in, const Storage* bias, Operand* out, Operand* slope);
  /// out = gradient * slope; sums as in to_operand_and_sum_rows.
  void (*gelu_backward)(int64_t rows, int64_t columns, const Real* gradient, const Operand* slope, Operand* out,
                        Real* sums);

  /// Row i of out [size, size] = softmax of scale * scores[i, 0..i], then zeros. scores is overwritten.
  void (*causal_softmax)(int64_t size, Real scale, Real* scores, Operand* out);
  /// out = gradient with respect to the scores. probability_gradient is not read above the diagonal.
  void (*causal_softmax_backward)(int64_t size, Real scale, const Operand* probabilities,
                                  const Real* probability_gradient, Operand* out);

  /// loss[i] = -log softmax(logits[i])[targets[i]] in nats; logit_gradient = gradient of gradient_scale * sum of
  /// losses, unless nullptr. logits is overwritten.
  void (*cross_entropy)(int64_t rows, int64_t columns, const uint8_t* targets, Real gradient_scale, Real* logits,
                        double* losses, Operand* logit_gradient);
};

/// The kernels for the best SIMD target of this CPU.
template <typename Route>
LayerKernels<Route> GetLayerKernels();

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_TRAIN_LAYERS_KERNELS_H_
