#include "shardstep/tools/train/model.h"

#include <algorithm>
#include <initializer_list>
#include <new>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "shardstep/comm/host_memory.h"
#include "shardstep/tools/train/layers.h"

namespace shardstep {
namespace {

template <typename Route>
class ModelImpl final : public Model<typename Route::Storage> {
 public:
  using Storage = typename Route::Storage;
  using Operand = typename Route::Operand;
  using Real = typename Route::Real;
  using Hooks = ParameterHooks<Storage>;

  ModelImpl(const ModelConfig& config, int64_t sequences, MatmulRoute route)
      : Model<Storage>(config, sequences, route),
        context_(config, sequences),
        inputs_(context_.rows),
        targets_(context_.rows),
        final_norm_(&context_, ModelIndex::FinalNormWeight(config)),
        normalized_(context_.rows * config.width),
        logits_(context_.rows * kVocabulary),
        logit_gradient_(context_.rows * kVocabulary),
        gradient_(context_.rows * config.width),
        losses_(context_.rows) {
    for (int64_t i = 0; i <= config.layers; ++i) residuals_.emplace_back(context_.rows * config.width);
  }

  absl::Status Init() {
    const ModelConfig& config = context_.config;
    for (int64_t i = 0; i < config.layers; ++i) {
      SHARDSTEP_ASSIGN_OR_RETURN(TransformerBlock<Route> block, TransformerBlock<Route>::Create(&context_, i));
      blocks_.push_back(std::move(block));
    }
    SHARDSTEP_ASSIGN_OR_RETURN(head_,
                               Linear<Route>::Create(&context_, ModelIndex::Head(config), config.width, kVocabulary));
    return absl::OkStatus();
  }

  absl::StatusOr<double> Gradients(absl::Span<const uint8_t> windows, const Hooks& hooks) override {
    const int64_t window_bytes = this->window_bytes();
    if (static_cast<int64_t>(windows.size()) != this->sequences() * window_bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("windows: ", windows.size(), " bytes, not ", this->sequences(), " x ", window_bytes));
    }
    context_.hooks = &hooks;
    SplitWindows(windows);
    SHARDSTEP_RETURN_IF_ERROR(Forward());
    const double scale = 1.0 / static_cast<double>(context_.rows);
    context_.kernels.cross_entropy(context_.rows, kVocabulary, targets_.data(), static_cast<Real>(scale),
                                   logits_.data(), losses_.data(), logit_gradient_.data());
    SHARDSTEP_RETURN_IF_ERROR(Backward());
    return SumLosses(0, context_.rows) / static_cast<double>(context_.rows);
  }

  absl::StatusOr<double> Evaluate(absl::Span<const uint8_t> windows, const Hooks& hooks) override {
    const int64_t window_bytes = this->window_bytes();
    if (windows.empty() || windows.size() % window_bytes != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("windows: ", windows.size(), " bytes, not one or more times ", window_bytes));
    }
    context_.hooks = &hooks;
    double sum = 0;
    const int64_t chunk_bytes = this->sequences() * window_bytes;
    for (absl::Span<const uint8_t> rest = windows; !rest.empty();) {
      const absl::Span<const uint8_t> chunk = rest.subspan(0, chunk_bytes);
      rest.remove_prefix(chunk.size());
      SplitWindows(chunk);
      SHARDSTEP_RETURN_IF_ERROR(Forward());
      const int64_t rows = static_cast<int64_t>(chunk.size()) / window_bytes * context_.config.context;
      context_.kernels.cross_entropy(rows, kVocabulary, targets_.data(), Real{0}, logits_.data(), losses_.data(),
                                     nullptr);
      sum = SumLosses(sum, rows);
    }
    const int64_t predictions = static_cast<int64_t>(windows.size()) / window_bytes * context_.config.context;
    return sum / static_cast<double>(predictions);
  }

  absl::Status NextByteLogits(absl::Span<const uint8_t> text, const Hooks& hooks, absl::Span<double> logits) override {
    if (text.empty() || static_cast<int64_t>(text.size()) > context_.config.context) {
      return absl::InvalidArgumentError(
          absl::StrCat("text: ", text.size(), " bytes, not 1 to context, ", context_.config.context));
    }
    if (logits.size() != kVocabulary) {
      return absl::InvalidArgumentError(absl::StrCat("logits: ", logits.size(), " elements, not ", kVocabulary));
    }
    context_.hooks = &hooks;
    std::fill(inputs_.begin(), inputs_.end(), uint8_t{0});
    std::copy(text.begin(), text.end(), inputs_.begin());
    SHARDSTEP_RETURN_IF_ERROR(Forward());
    const Real* row = logits_.data() + (static_cast<int64_t>(text.size()) - 1) * kVocabulary;
    std::copy(row, row + kVocabulary, logits.begin());
    return absl::OkStatus();
  }

 private:
  /// Rows beyond the given windows see zeros, so that no pass depends on an earlier one.
  void SplitWindows(absl::Span<const uint8_t> windows) {
    const int64_t context = context_.config.context;
    std::fill(inputs_.begin(), inputs_.end(), uint8_t{0});
    std::fill(targets_.begin(), targets_.end(), uint8_t{0});
    for (int64_t s = 0; s * (context + 1) < static_cast<int64_t>(windows.size()); ++s) {
      const auto window = windows.subspan(s * (context + 1), context + 1);
      std::copy(window.begin(), window.end() - 1, inputs_.begin() + s * context);
      std::copy(window.begin() + 1, window.end(), targets_.begin() + s * context);
    }
  }

  double SumLosses(double sum, int64_t rows) const {
    for (int64_t i = 0; i < rows; ++i) sum += losses_[i];
    return sum;
  }

  /// inputs_ to logits_.
  absl::Status Forward() {
    const ModelConfig& config = context_.config;
    SHARDSTEP_ASSIGN_OR_RETURN(const Storage* token, context_.Weights(ModelIndex::kTokenEmbedding));
    SHARDSTEP_ASSIGN_OR_RETURN(const Storage* position, context_.Weights(ModelIndex::kPositionEmbedding));
    for (int64_t s = 0; s < context_.sequences; ++s) {
      context_.kernels.embed(config.context, config.width, inputs_.data() + s * config.context, token, position,
                             residuals_[0].data() + s * config.context * config.width);
    }
    for (int64_t i = 0; i < config.layers; ++i) {
      SHARDSTEP_RETURN_IF_ERROR(blocks_[i].Forward(residuals_[i].data(), residuals_[i + 1].data()));
    }
    SHARDSTEP_RETURN_IF_ERROR(final_norm_.Forward(residuals_[config.layers].data(), normalized_.data()));
    return head_.Forward(normalized_.data(), logits_.data());
  }

  /// logit_gradient_ to the gradients of all parameters.
  absl::Status Backward() {
    const ModelConfig& config = context_.config;
    SHARDSTEP_RETURN_IF_ERROR(head_.Backward(normalized_.data(), logit_gradient_.data(), context_.narrow.data()));
    std::fill(gradient_.data(), gradient_.data() + context_.rows * config.width, Real{0});
    SHARDSTEP_RETURN_IF_ERROR(
        final_norm_.Backward(residuals_[config.layers].data(), context_.narrow.data(), gradient_.data()));
    for (int64_t i = config.layers; i-- > 0;) {
      SHARDSTEP_RETURN_IF_ERROR(blocks_[i].Backward(residuals_[i].data(), gradient_.data()));
    }
    return EmbeddingBackward();
  }

  absl::Status EmbeddingBackward() {
    const int64_t width = context_.config.width;
    const int64_t context = context_.config.context;
    Real* sums = context_.weight_gradient.data();
    std::fill(sums, sums + context * width, Real{0});
    for (int64_t i = 0; i < context_.rows; i += context) {
      context_.kernels.add(context * width, gradient_.data() + i * width, sums);
    }
    SHARDSTEP_RETURN_IF_ERROR(context_.WriteGradient(ModelIndex::kPositionEmbedding, context * width, sums));
    std::fill(sums, sums + kVocabulary * width, Real{0});
    for (int64_t i = 0; i < context_.rows; ++i) {
      context_.kernels.add(width, gradient_.data() + i * width, sums + inputs_[i] * width);
    }
    return context_.WriteGradient(ModelIndex::kTokenEmbedding, kVocabulary * width, sums);
  }

  LayerContext<Route> context_;
  std::vector<uint8_t> inputs_, targets_;      ///< [rows]
  std::vector<AlignedArray<Real>> residuals_;  ///< [layers + 1] of [rows, width]: what enters each block, and the end
  std::vector<TransformerBlock<Route>> blocks_;
  LayerNorm<Route> final_norm_;
  Linear<Route> head_;
  AlignedArray<Operand> normalized_;      ///< [rows, width]
  AlignedArray<Real> logits_;             ///< [rows, vocabulary]
  AlignedArray<Operand> logit_gradient_;  ///< [rows, vocabulary]
  AlignedArray<Real> gradient_;           ///< [rows, width], of the residual stream
  std::vector<double> losses_;            ///< [rows]
};

// Adds up arrays of the workspace; keeps the first product or sum that leaves int64.
class WorkspaceSum {
 public:
  struct Factor {
    absl::string_view name;
    int64_t value;
  };

  void Add(absl::string_view part, int64_t element_bytes, std::initializer_list<Factor> factors) {
    int64_t bytes = element_bytes;
    bool overflow = false;
    for (const Factor& factor : factors) overflow |= __builtin_mul_overflow(bytes, factor.value, &bytes);
    overflow |= __builtin_add_overflow(bytes_, bytes, &bytes_);
    if (!overflow || !status_.ok()) return;
    status_ = absl::ResourceExhaustedError(
        absl::StrCat("model: bytes of the ", part,
                     " exceed 2^63: ", absl::StrJoin(factors, " x ", [](std::string* out, const Factor& f) {
                       absl::StrAppend(out, f.name, " ", f.value);
                     })));
  }

  absl::StatusOr<int64_t> Total() const {
    if (!status_.ok()) return status_;
    return bytes_;
  }

 private:
  int64_t bytes_ = 0;
  absl::Status status_;
};

// What ModelImpl, LayerContext and the layers of `Route` allocate.
template <typename Route>
absl::StatusOr<int64_t> RouteWorkspaceBytes(const ModelConfig& config, int64_t sequences) {
  SHARDSTEP_RETURN_IF_ERROR(ValidateModelConfig(config));
  constexpr int64_t kMaxSequences = 1 << 16;
  if (sequences < 1 || sequences > kMaxSequences) {
    return absl::InvalidArgumentError(absl::StrCat("sequences: ", sequences, " is not between 1 and ", kMaxSequences));
  }
  constexpr int64_t kReal = sizeof(typename Route::Real);
  constexpr int64_t kOperand = sizeof(typename Route::Operand);
  constexpr int64_t kWidening = std::is_same_v<typename Route::Storage, typename Route::Operand> ? 0 : kOperand;
  using Factor = WorkspaceSum::Factor;
  const Factor layers{"layers", config.layers};
  const Factor width{"width", config.width};
  const Factor context{"context", config.context};
  const Factor windows{"sequences", sequences};
  const int64_t largest_row = std::max({kMlpExpansion * config.width, 3 * config.width, kVocabulary, config.context});
  WorkspaceSum sum;
  // Per block and row: attention_in_, qkv_out_, mixed_, mlp_in_, hidden_, slope_; middle_ and the residual.
  sum.Add("activations", (6 + 2 * kMlpExpansion) * kOperand + 2 * kReal, {layers, windows, context, width});
  sum.Add("attention probabilities", kOperand, {layers, windows, {"heads", config.heads}, context, context});
  sum.Add("attention scores", kReal + kOperand, {layers, context, context});
  // Per row of two layer norms in each block: mean and inverse deviation.
  sum.Add("layer norms", 4 * kReal, {layers, windows, context});
  // Per row: LayerContext's wide and narrow scratch, normalized_, gradient_, the first residual.
  sum.Add("scratch", (kMlpExpansion + 1) * (kReal + kOperand) + kOperand + 2 * kReal, {windows, context, width});
  sum.Add("logits", kReal + kOperand, {windows, context, {"vocabulary", kVocabulary}});
  // Per row: the last layer norm, losses_, inputs_, targets_.
  sum.Add("losses", 2 * kReal + int64_t{sizeof(double)} + 2, {windows, context});
  sum.Add("weight gradient", kReal + kWidening, {width, {"largest row", largest_row}});
  sum.Add("column sums", 2 * kMlpExpansion * kReal, {width});
  return sum.Total();
}

template <typename Route>
absl::StatusOr<std::unique_ptr<Model<typename Route::Storage>>> CreateModel(const ModelConfig& config,
                                                                            int64_t sequences, MatmulRoute route) {
  SHARDSTEP_ASSIGN_OR_RETURN(const int64_t bytes, RouteWorkspaceBytes<Route>(config, sequences));
  SHARDSTEP_RETURN_IF_ERROR(CheckMemoryAvailable(bytes, "model"));
  // The check passes where the process has a limit of its own, and what it saw may be gone.
  try {
    auto model = std::make_unique<ModelImpl<Route>>(config, sequences, route);
    SHARDSTEP_RETURN_IF_ERROR(model->Init());
    return model;
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat("model: no memory for ", bytes, " bytes"));
  }
}

}  // namespace

absl::StatusOr<int64_t> WorkspaceBytes(const ModelConfig& config, int64_t sequences, MatmulRoute route) {
  return route == MatmulRoute::kBf16 ? RouteWorkspaceBytes<Bf16Route>(config, sequences)
                                     : RouteWorkspaceBytes<Fp32Route>(config, sequences);
}

template <>
absl::StatusOr<std::unique_ptr<Model<Bf16>>> Model<Bf16>::Create(const ModelConfig& config, int64_t sequences,
                                                                 MatmulRoute route) {
  if (route == MatmulRoute::kBf16) {
    if (FastestMatmulRoute() != MatmulRoute::kBf16) {
      return absl::InvalidArgumentError("route: this CPU has no bf16 products");
    }
    return CreateModel<Bf16Route>(config, sequences, route);
  }
  return CreateModel<Fp32Route>(config, sequences, route);
}

template <>
absl::StatusOr<std::unique_ptr<Model<double>>> Model<double>::Create(const ModelConfig& config, int64_t sequences,
                                                                     MatmulRoute route) {
  return CreateModel<DoubleRoute>(config, sequences, route);
}

}  // namespace shardstep
