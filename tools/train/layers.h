#ifndef SHARDSTEP_TOOLS_TRAIN_LAYERS_H_
#define SHARDSTEP_TOOLS_TRAIN_LAYERS_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>

#include "shardstep/comm/status.h"
#include "shardstep/tools/train/layers_kernels.h"
#include "shardstep/tools/train/matmul.h"
#include "shardstep/tools/train/model.h"
#include "shardstep/tools/train/model_config.h"

namespace shardstep {

/// Zero-filled memory for SIMD, of a size fixed at creation.
template <typename T>
class AlignedArray {
 public:
  AlignedArray() = default;
  explicit AlignedArray(int64_t count)
      : data_(static_cast<T*>(::operator new(static_cast<size_t>(count) * sizeof(T), kAlignment))) {
    std::uninitialized_fill_n(data_.get(), count, T{});
  }
  T* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Delete {
    void operator()(T* data) const { ::operator delete(data, kAlignment); }
  };
  std::unique_ptr<T, Delete> data_;
};

/// What the layers of one model share: sizes, kernels, products, the scratch memory of one layer at a time, and the
/// caller's hooks for the pass under way.
template <typename Route>
class LayerContext {
 public:
  using Storage = typename Route::Storage;
  using Operand = typename Route::Operand;
  using Real = typename Route::Real;

  LayerContext(const ModelConfig& config, int64_t sequences);

  const ModelConfig config;
  const int64_t sequences;
  const int64_t rows;  ///< sequences * context
  const LayerKernels<Route> kernels = GetLayerKernels<Route>();
  MatmulCache<Operand> products;

  /// The hooks of the pass under way.
  const ParameterHooks<Storage>* hooks = nullptr;

  /// The weights of p, once the caller has them ready.
  absl::StatusOr<const Storage*> Weights(int p);
  /// The same as an operand of a product, valid until the next call.
  absl::StatusOr<const Operand*> WeightOperand(int p, int64_t count);
  /// Rounds `values` into the gradient of p.
  absl::Status WriteGradient(int p, int64_t count, const Real* values);

  // Scratch. A layer finds no value of an earlier layer here.
  AlignedArray<Real> wide;             ///< [rows, 4 * width]
  AlignedArray<Operand> wide_operand;  ///< [rows, 4 * width]
  AlignedArray<Real> narrow;           ///< [rows, width]
  AlignedArray<Operand> narrow_operand;
  AlignedArray<Real> column_sums;      ///< [2, 4 * width]
  AlignedArray<Real> weight_gradient;  ///< the largest parameter

 private:
  AlignedArray<Operand> weight_operand_;  ///< the largest parameter; empty when weights are operands as they are
};

/// y = x W, with W [in, out]; the bias is added by what reads y.
template <typename Route>
class Linear {
 public:
  using Operand = typename Route::Operand;
  using Real = typename Route::Real;

  static absl::StatusOr<Linear> Create(LayerContext<Route>* context, int weight, int64_t in, int64_t out);
  /// in: [rows, in], out: [rows, out].
  absl::Status Forward(const Operand* in, Real* out);
  /// Writes W's gradient, then in_gradient.
  absl::Status Backward(const Operand* in, const Operand* out_gradient, Real* in_gradient);

 private:
  LayerContext<Route>* context_ = nullptr;
  int weight_ = 0;
  int64_t elements_ = 0;
  Matmul<Operand>* forward_ = nullptr;
  Matmul<Operand>* in_gradient_ = nullptr;
  Matmul<Operand>* weight_gradient_ = nullptr;
};

/// LayerNorm over the width; weight and bias are parameters `weight` and `weight` + 1.
template <typename Route>
class LayerNorm {
 public:
  using Operand = typename Route::Operand;
  using Real = typename Route::Real;

  LayerNorm(LayerContext<Route>* context, int weight);
  /// in, out: [rows, width].
  absl::Status Forward(const Real* in, Operand* out);
  /// in_gradient += ; writes bias' and weight's gradients. `in` as in Forward.
  absl::Status Backward(const Real* in, const Real* out_gradient, Real* in_gradient);

 private:
  LayerContext<Route>* context_;
  int weight_;
  AlignedArray<Real> mean_, inverse_deviation_;  ///< [rows]
};

/// softmax(causal(Q K^T / sqrt(head width))) V for every head of every sequence; no parameters.
template <typename Route>
class CausalAttention {
 public:
  using Operand = typename Route::Operand;
  using Real = typename Route::Real;

  static absl::StatusOr<CausalAttention> Create(LayerContext<Route>* context);
  /// qkv: [rows, 3 * width], queries, then keys, then values, heads side by side; out: [rows, width].
  absl::Status Forward(const Operand* qkv, Real* out);
  absl::Status Backward(const Operand* qkv, const Operand* out_gradient, Real* qkv_gradient);

 private:
  Operand* probabilities(int64_t sequence, int64_t head) const;

  LayerContext<Route>* context_ = nullptr;
  Real scale_ = 0;
  AlignedArray<Operand> probabilities_;  ///< [sequences, heads, context, context]
  AlignedArray<Real> scores_;            ///< [context, context], scratch
  AlignedArray<Operand> score_gradient_;
  Matmul<Operand>* query_by_key_ = nullptr;
  Matmul<Operand>* probability_by_value_ = nullptr;
  Matmul<Operand>* gradient_by_value_ = nullptr;
  Matmul<Operand>* probability_by_gradient_ = nullptr;
  Matmul<Operand>* score_by_key_ = nullptr;
  Matmul<Operand>* score_by_query_ = nullptr;
};

/// x + attention(norm(x)), then x + mlp(norm(x)).
template <typename Route>
class TransformerBlock {
 public:
  using Operand = typename Route::Operand;
  using Real = typename Route::Real;

  static absl::StatusOr<TransformerBlock> Create(LayerContext<Route>* context, int64_t block);
  /// in, out: [rows, width], different memory.
  absl::Status Forward(const Real* in, Real* out);
  /// gradient: with respect to out on entry, to `in` on return. `in` as in Forward.
  absl::Status Backward(const Real* in, Real* gradient);

 private:
  TransformerBlock(LayerContext<Route>* context, int64_t block);
  absl::Status ForwardAttention(const Real* in);
  absl::Status ForwardMlp(Real* out);
  absl::Status BackwardMlp(Real* gradient);
  absl::Status BackwardAttention(const Real* in, Real* gradient);

  LayerContext<Route>* context_;
  int64_t block_;
  LayerNorm<Route> attention_norm_, mlp_norm_;
  Linear<Route> qkv_, attention_projection_, expand_, mlp_projection_;
  CausalAttention<Route> attention_;
  // Kept for the backward pass.
  AlignedArray<Operand> attention_in_;  ///< [rows, width]
  AlignedArray<Operand> qkv_out_;       ///< [rows, 3 * width]
  AlignedArray<Operand> mixed_;         ///< [rows, width]
  AlignedArray<Real> middle_;           ///< [rows, width], the residual between attention and MLP
  AlignedArray<Operand> mlp_in_;        ///< [rows, width]
  AlignedArray<Operand> hidden_;        ///< [rows, 4 * width]
  AlignedArray<Operand> slope_;         ///< [rows, 4 * width]
};

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_TRAIN_LAYERS_H_
