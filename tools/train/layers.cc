#include "shardstep/tools/train/layers.h"

#include <cmath>
#include <type_traits>
#include <utility>

namespace shardstep {

template <typename Route>
LayerContext<Route>::LayerContext(const ModelConfig& model_config, int64_t model_sequences)
    : config(model_config),
      sequences(model_sequences),
      rows(model_sequences * model_config.context),
      wide(rows * kMlpExpansion * config.width),
      wide_operand(rows * kMlpExpansion * config.width),
      narrow(rows * config.width),
      narrow_operand(rows * config.width),
      column_sums(2 * kMlpExpansion * config.width) {
  const int64_t largest =
      config.width * std::max({kMlpExpansion * config.width, 3 * config.width, kVocabulary, config.context});
  weight_gradient = AlignedArray<Real>(largest);
  if constexpr (!std::is_same_v<Storage, Operand>) weight_operand_ = AlignedArray<Operand>(largest);
}

template <typename Route>
absl::StatusOr<const typename Route::Storage*> LayerContext<Route>::Weights(int p) {
  if (hooks->weights_needed) SHARDSTEP_RETURN_IF_ERROR(hooks->weights_needed(p));
  return hooks->weights(p).data();
}

template <typename Route>
absl::StatusOr<const typename Route::Operand*> LayerContext<Route>::WeightOperand(int p, int64_t count) {
  SHARDSTEP_ASSIGN_OR_RETURN(const Storage* weights, Weights(p));
  if constexpr (std::is_same_v<Storage, Operand>) {
    return weights;
  } else {
    kernels.load(count, weights, weight_operand_.data());
    return weight_operand_.data();
  }
}

template <typename Route>
absl::Status LayerContext<Route>::WriteGradient(int p, int64_t count, const Real* values) {
  if (hooks->gradient_begin) SHARDSTEP_RETURN_IF_ERROR(hooks->gradient_begin(p));
  kernels.store(count, values, hooks->gradient(p).data());
  if (hooks->gradient_done) SHARDSTEP_RETURN_IF_ERROR(hooks->gradient_done(p));
  return absl::OkStatus();
}

template <typename Route>
absl::StatusOr<Linear<Route>> Linear<Route>::Create(LayerContext<Route>* context, int weight, int64_t in, int64_t out) {
  Linear linear;
  linear.context_ = context;
  linear.weight_ = weight;
  linear.elements_ = in * out;
  const int64_t rows = context->rows;
  MatmulCache<Operand>& products = context->products;
  SHARDSTEP_ASSIGN_OR_RETURN(
      linear.forward_,
      products.Get(
          {.rows = rows, .columns = out, .inner = in, .a_row_stride = in, .b_row_stride = out, .c_row_stride = out}));
  SHARDSTEP_ASSIGN_OR_RETURN(linear.in_gradient_, products.Get({.rows = rows,
                                                                .columns = in,
                                                                .inner = out,
                                                                .a_row_stride = out,
                                                                .b_row_stride = 1,
                                                                .b_column_stride = out,
                                                                .c_row_stride = in}));
  SHARDSTEP_ASSIGN_OR_RETURN(linear.weight_gradient_, products.Get({.rows = in,
                                                                    .columns = out,
                                                                    .inner = rows,
                                                                    .a_row_stride = 1,
                                                                    .a_column_stride = in,
                                                                    .b_row_stride = out,
                                                                    .c_row_stride = out}));
  return linear;
}

template <typename Route>
absl::Status Linear<Route>::Forward(const Operand* in, Real* out) {
  SHARDSTEP_ASSIGN_OR_RETURN(const Operand* weight, context_->WeightOperand(weight_, elements_));
  return forward_->Run(in, weight, out);
}

template <typename Route>
absl::Status Linear<Route>::Backward(const Operand* in, const Operand* out_gradient, Real* in_gradient) {
  Real* gradient = context_->weight_gradient.data();
  SHARDSTEP_RETURN_IF_ERROR(weight_gradient_->Run(in, out_gradient, gradient));
  SHARDSTEP_RETURN_IF_ERROR(context_->WriteGradient(weight_, elements_, gradient));
  SHARDSTEP_ASSIGN_OR_RETURN(const Operand* weight, context_->WeightOperand(weight_, elements_));
  return in_gradient_->Run(out_gradient, weight, in_gradient);
}

template <typename Route>
LayerNorm<Route>::LayerNorm(LayerContext<Route>* context, int weight)
    : context_(context), weight_(weight), mean_(context->rows), inverse_deviation_(context->rows) {}

template <typename Route>
absl::Status LayerNorm<Route>::Forward(const Real* in, Operand* out) {
  SHARDSTEP_ASSIGN_OR_RETURN(const auto* weight, context_->Weights(weight_));
  SHARDSTEP_ASSIGN_OR_RETURN(const auto* bias, context_->Weights(weight_ + 1));
  context_->kernels.layer_norm(context_->rows, context_->config.width, in, weight, bias, out, mean_.data(),
                               inverse_deviation_.data());
  return absl::OkStatus();
}

template <typename Route>
absl::Status LayerNorm<Route>::Backward(const Real* in, const Real* out_gradient, Real* in_gradient) {
  const int64_t width = context_->config.width;
  Real* weight_gradient = context_->column_sums.data();
  Real* bias_gradient = weight_gradient + width;
  SHARDSTEP_ASSIGN_OR_RETURN(const auto* weight, context_->Weights(weight_));
  context_->kernels.layer_norm_backward(context_->rows, width, in, mean_.data(), inverse_deviation_.data(), weight,
                                        out_gradient, in_gradient, weight_gradient, bias_gradient);
  SHARDSTEP_RETURN_IF_ERROR(context_->WriteGradient(weight_ + 1, width, bias_gradient));
  return context_->WriteGradient(weight_, width, weight_gradient);
}

template <typename Route>
absl::StatusOr<CausalAttention<Route>> CausalAttention<Route>::Create(LayerContext<Route>* context) {
  const int64_t size = context->config.context;
  const int64_t head = context->config.head_width();
  const int64_t width = context->config.width;
  const int64_t qkv = 3 * width;
  CausalAttention layer;
  layer.context_ = context;
  layer.scale_ = 1 / std::sqrt(static_cast<Real>(head));
  layer.probabilities_ = AlignedArray<Operand>(context->sequences * context->config.heads * size * size);
  layer.scores_ = AlignedArray<Real>(size * size);
  layer.score_gradient_ = AlignedArray<Operand>(size * size);
  // [context, head] x [head, context] or [context, context] x [context, head], of rows with the given strides.
  const auto to_square = [&](int64_t a_stride, int64_t b_stride) {
    return context->products.Get({.rows = size,
                                  .columns = size,
                                  .inner = head,
                                  .a_row_stride = a_stride,
                                  .b_row_stride = 1,
                                  .b_column_stride = b_stride,
                                  .c_row_stride = size});
  };
  const auto from_square = [&](bool transposed, int64_t b_stride, int64_t c_stride) {
    return context->products.Get({.rows = size,
                                  .columns = head,
                                  .inner = size,
                                  .a_row_stride = transposed ? 1 : size,
                                  .a_column_stride = transposed ? size : 1,
                                  .b_row_stride = b_stride,
                                  .c_row_stride = c_stride});
  };
  SHARDSTEP_ASSIGN_OR_RETURN(layer.query_by_key_, to_square(qkv, qkv));
  SHARDSTEP_ASSIGN_OR_RETURN(layer.probability_by_value_, from_square(false, qkv, width));
  SHARDSTEP_ASSIGN_OR_RETURN(layer.gradient_by_value_, to_square(width, qkv));
  SHARDSTEP_ASSIGN_OR_RETURN(layer.probability_by_gradient_, from_square(true, width, qkv));
  SHARDSTEP_ASSIGN_OR_RETURN(layer.score_by_key_, from_square(false, qkv, qkv));
  SHARDSTEP_ASSIGN_OR_RETURN(layer.score_by_query_, from_square(true, qkv, qkv));
  return layer;
}

template <typename Route>
typename Route::Operand* CausalAttention<Route>::probabilities(int64_t sequence, int64_t head) const {
  const int64_t size = context_->config.context;
  return probabilities_.data() + (sequence * context_->config.heads + head) * size * size;
}

template <typename Route>
absl::Status CausalAttention<Route>::Forward(const Operand* qkv, Real* out) {
  const ModelConfig& config = context_->config;
  for (int64_t s = 0; s < context_->sequences; ++s) {
    for (int64_t h = 0; h < config.heads; ++h) {
      const Operand* query = qkv + s * config.context * 3 * config.width + h * config.head_width();
      const Operand* key = query + config.width;
      const Operand* value = key + config.width;
      Operand* probability = probabilities(s, h);
      SHARDSTEP_RETURN_IF_ERROR(query_by_key_->Run(query, key, scores_.data()));
      context_->kernels.causal_softmax(config.context, scale_, scores_.data(), probability);
      SHARDSTEP_RETURN_IF_ERROR(probability_by_value_->Run(
          probability, value, out + s * config.context * config.width + h * config.head_width()));
    }
  }
  return absl::OkStatus();
}

template <typename Route>
absl::Status CausalAttention<Route>::Backward(const Operand* qkv, const Operand* out_gradient, Real* qkv_gradient) {
  const ModelConfig& config = context_->config;
  for (int64_t s = 0; s < context_->sequences; ++s) {
    for (int64_t h = 0; h < config.heads; ++h) {
      const int64_t offset = s * config.context * 3 * config.width + h * config.head_width();
      const Operand* query = qkv + offset;
      const Operand* key = query + config.width;
      const Operand* value = key + config.width;
      Real* query_gradient = qkv_gradient + offset;
      Real* key_gradient = query_gradient + config.width;
      Real* value_gradient = key_gradient + config.width;
      const Operand* gradient = out_gradient + s * config.context * config.width + h * config.head_width();
      const Operand* probability = probabilities(s, h);
      SHARDSTEP_RETURN_IF_ERROR(probability_by_gradient_->Run(probability, gradient, value_gradient));
      SHARDSTEP_RETURN_IF_ERROR(gradient_by_value_->Run(gradient, value, scores_.data()));
      context_->kernels.causal_softmax_backward(config.context, scale_, probability, scores_.data(),
                                                score_gradient_.data());
      SHARDSTEP_RETURN_IF_ERROR(score_by_key_->Run(score_gradient_.data(), key, query_gradient));
      SHARDSTEP_RETURN_IF_ERROR(score_by_query_->Run(score_gradient_.data(), query, key_gradient));
    }
  }
  return absl::OkStatus();
}

template <typename Route>
TransformerBlock<Route>::TransformerBlock(LayerContext<Route>* context, int64_t block)
    : context_(context),
      block_(block),
      attention_norm_(context, ModelIndex::Block(block, ModelIndex::kAttentionNormWeight)),
      mlp_norm_(context, ModelIndex::Block(block, ModelIndex::kMlpNormWeight)) {
  const int64_t rows = context->rows;
  const int64_t width = context->config.width;
  attention_in_ = AlignedArray<Operand>(rows * width);
  qkv_out_ = AlignedArray<Operand>(rows * 3 * width);
  mixed_ = AlignedArray<Operand>(rows * width);
  middle_ = AlignedArray<Real>(rows * width);
  mlp_in_ = AlignedArray<Operand>(rows * width);
  hidden_ = AlignedArray<Operand>(rows * kMlpExpansion * width);
  slope_ = AlignedArray<Operand>(rows * kMlpExpansion * width);
}

template <typename Route>
absl::StatusOr<TransformerBlock<Route>> TransformerBlock<Route>::Create(LayerContext<Route>* context, int64_t block) {
  const int64_t width = context->config.width;
  const int64_t hidden = kMlpExpansion * width;
  const auto linear = [&](ModelIndex::BlockParameter weight, int64_t in, int64_t out) {
    return Linear<Route>::Create(context, ModelIndex::Block(block, weight), in, out);
  };
  TransformerBlock layer(context, block);
  SHARDSTEP_ASSIGN_OR_RETURN(layer.attention_, CausalAttention<Route>::Create(context));
  SHARDSTEP_ASSIGN_OR_RETURN(layer.qkv_, linear(ModelIndex::kQkvWeight, width, 3 * width));
  SHARDSTEP_ASSIGN_OR_RETURN(layer.attention_projection_, linear(ModelIndex::kAttentionProjectionWeight, width, width));
  SHARDSTEP_ASSIGN_OR_RETURN(layer.expand_, linear(ModelIndex::kExpandWeight, width, hidden));
  SHARDSTEP_ASSIGN_OR_RETURN(layer.mlp_projection_, linear(ModelIndex::kMlpProjectionWeight, hidden, width));
  return layer;
}

template <typename Route>
absl::Status TransformerBlock<Route>::Forward(const Real* in, Real* out) {
  SHARDSTEP_RETURN_IF_ERROR(ForwardAttention(in));
  return ForwardMlp(out);
}

template <typename Route>
absl::Status TransformerBlock<Route>::ForwardAttention(const Real* in) {
  const int64_t rows = context_->rows;
  const int64_t width = context_->config.width;
  Real* product = context_->wide.data();
  SHARDSTEP_RETURN_IF_ERROR(attention_norm_.Forward(in, attention_in_.data()));
  SHARDSTEP_RETURN_IF_ERROR(qkv_.Forward(attention_in_.data(), product));
  SHARDSTEP_ASSIGN_OR_RETURN(const auto* qkv_bias, context_->Weights(ModelIndex::Block(block_, ModelIndex::kQkvBias)));
  context_->kernels.add_bias(rows, 3 * width, product, qkv_bias, qkv_out_.data());
  SHARDSTEP_RETURN_IF_ERROR(attention_.Forward(qkv_out_.data(), product));
  context_->kernels.to_operand(rows * width, product, mixed_.data());
  SHARDSTEP_RETURN_IF_ERROR(attention_projection_.Forward(mixed_.data(), product));
  SHARDSTEP_ASSIGN_OR_RETURN(const auto* bias,
                             context_->Weights(ModelIndex::Block(block_, ModelIndex::kAttentionProjectionBias)));
  context_->kernels.add_bias_and_residual(rows, width, product, bias, in, middle_.data());
  return absl::OkStatus();
}

template <typename Route>
absl::Status TransformerBlock<Route>::ForwardMlp(Real* out) {
  const int64_t rows = context_->rows;
  const int64_t width = context_->config.width;
  Real* product = context_->wide.data();
  SHARDSTEP_RETURN_IF_ERROR(mlp_norm_.Forward(middle_.data(), mlp_in_.data()));
  SHARDSTEP_RETURN_IF_ERROR(expand_.Forward(mlp_in_.data(), product));
  SHARDSTEP_ASSIGN_OR_RETURN(const auto* expand_bias,
                             context_->Weights(ModelIndex::Block(block_, ModelIndex::kExpandBias)));
  context_->kernels.gelu(rows, kMlpExpansion * width, product, expand_bias, hidden_.data(), slope_.data());
  SHARDSTEP_RETURN_IF_ERROR(mlp_projection_.Forward(hidden_.data(), product));
  SHARDSTEP_ASSIGN_OR_RETURN(const auto* bias,
                             context_->Weights(ModelIndex::Block(block_, ModelIndex::kMlpProjectionBias)));
  context_->kernels.add_bias_and_residual(rows, width, product, bias, middle_.data(), out);
  return absl::OkStatus();
}

template <typename Route>
absl::Status TransformerBlock<Route>::Backward(const Real* in, Real* gradient) {
  SHARDSTEP_RETURN_IF_ERROR(BackwardMlp(gradient));
  return BackwardAttention(in, gradient);
}

template <typename Route>
absl::Status TransformerBlock<Route>::BackwardMlp(Real* gradient) {
  const int64_t rows = context_->rows;
  const int64_t width = context_->config.width;
  const int64_t hidden = kMlpExpansion * width;
  Real* sums = context_->column_sums.data();
  context_->kernels.to_operand_and_sum_rows(rows, width, gradient, context_->narrow_operand.data(), sums);
  SHARDSTEP_RETURN_IF_ERROR(
      context_->WriteGradient(ModelIndex::Block(block_, ModelIndex::kMlpProjectionBias), width, sums));
  SHARDSTEP_RETURN_IF_ERROR(
      mlp_projection_.Backward(hidden_.data(), context_->narrow_operand.data(), context_->wide.data()));
  context_->kernels.gelu_backward(rows, hidden, context_->wide.data(), slope_.data(), context_->wide_operand.data(),
                                  sums);
  SHARDSTEP_RETURN_IF_ERROR(context_->WriteGradient(ModelIndex::Block(block_, ModelIndex::kExpandBias), hidden, sums));
  SHARDSTEP_RETURN_IF_ERROR(expand_.Backward(mlp_in_.data(), context_->wide_operand.data(), context_->narrow.data()));
  return mlp_norm_.Backward(middle_.data(), context_->narrow.data(), gradient);
}

template <typename Route>
absl::Status TransformerBlock<Route>::BackwardAttention(const Real* in, Real* gradient) {
  const int64_t rows = context_->rows;
  const int64_t width = context_->config.width;
  Real* sums = context_->column_sums.data();
  context_->kernels.to_operand_and_sum_rows(rows, width, gradient, context_->narrow_operand.data(), sums);
  SHARDSTEP_RETURN_IF_ERROR(
      context_->WriteGradient(ModelIndex::Block(block_, ModelIndex::kAttentionProjectionBias), width, sums));
  SHARDSTEP_RETURN_IF_ERROR(
      attention_projection_.Backward(mixed_.data(), context_->narrow_operand.data(), context_->narrow.data()));
  context_->kernels.to_operand(rows * width, context_->narrow.data(), context_->narrow_operand.data());
  SHARDSTEP_RETURN_IF_ERROR(
      attention_.Backward(qkv_out_.data(), context_->narrow_operand.data(), context_->wide.data()));
  context_->kernels.to_operand_and_sum_rows(rows, 3 * width, context_->wide.data(), context_->wide_operand.data(),
                                            sums);
  SHARDSTEP_RETURN_IF_ERROR(context_->WriteGradient(ModelIndex::Block(block_, ModelIndex::kQkvBias), 3 * width, sums));
  SHARDSTEP_RETURN_IF_ERROR(
      qkv_.Backward(attention_in_.data(), context_->wide_operand.data(), context_->narrow.data()));
  return attention_norm_.Backward(in, context_->narrow.data(), gradient);
}

#define SHARDSTEP_INSTANTIATE_LAYERS(Route) \
  template class LayerContext<Route>;       \
  template class Linear<Route>;             \
  template class LayerNorm<Route>;          \
  template class CausalAttention<Route>;    \
  template class TransformerBlock<Route>

SHARDSTEP_INSTANTIATE_LAYERS(Bf16Route);
SHARDSTEP_INSTANTIATE_LAYERS(Fp32Route);
SHARDSTEP_INSTANTIATE_LAYERS(DoubleRoute);

}  // namespace shardstep
