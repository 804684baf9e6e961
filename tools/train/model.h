#ifndef SHARDSTEP_TOOLS_TRAIN_MODEL_H_
#define SHARDSTEP_TOOLS_TRAIN_MODEL_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/types/span.h"
#include "shardstep/comm/bf16.h"
#include "shardstep/comm/status.h"
#include "shardstep/tools/train/matmul.h"
#include "shardstep/tools/train/model_config.h"

namespace shardstep {

/// How a model reaches weights and gradients, which somebody else owns. p is a position in ModelParameters. Every error
/// ends the pass and is returned by it. The last three are not needed without gradients.
template <typename Storage>
struct ParameterHooks {
  /// Called before a layer reads p, in the forward and again in the backward pass; may block. May be empty.
  std::function<absl::Status(int p)> weights_needed;
  /// All elements of p; constant from weights_needed(p) to the end of the pass.
  std::function<absl::Span<const Storage>(int p)> weights;
  /// Called once per backward pass and parameter, before anything is written to gradient(p); may block. May be empty.
  std::function<absl::Status(int p)> gradient_begin;
  /// All elements of p; overwritten, never read.
  std::function<absl::Span<Storage>(int p)> gradient;
  /// Called once gradient(p) is complete: before the next parameter's gradient_begin. May be empty.
  std::function<absl::Status(int p)> gradient_done;
};

/// Bytes of memory that Model<Bf16>::Create allocates in `route`, without what oneDNN keeps for itself; nothing is
/// allocated. InvalidArgument names the field of `config`, or "sequences", that is out of range; ResourceExhausted
/// names the workspace's part, and its sizes, whose bytes exceed int64.
absl::StatusOr<int64_t> WorkspaceBytes(const ModelConfig& config, int64_t sequences, MatmulRoute route);

/// A byte-level GPT with fixed shapes. Storage is Bf16 for training: products by oneDNN in the route chosen at
/// creation, everything else in fp32, and each gradient rounded to bf16 once; the residual stream is fp32, what the
/// backward pass keeps is bf16 (route bf16) or fp32. Storage double is the reference: every operation in double, plain
/// loops.
///
/// Passes give the same bits for the same weights, windows, route, CPU kind and thread count, whatever came before.
/// Memory is allocated at creation only. One thread at a time.
template <typename Storage>
class Model {
 public:
  /// `sequences` >= 1: windows per pass. InvalidArgument names the field. ResourceExhausted, before anything is
  /// allocated, names the bytes when this host has not got them now, or as WorkspaceBytes does. The check is of one
  /// process: ranks that share a host do not see each other's demand. `route` does not matter for double.
  static absl::StatusOr<std::unique_ptr<Model>> Create(const ModelConfig& config, int64_t sequences, MatmulRoute route);
  virtual ~Model() = default;

  const ModelConfig& config() const { return config_; }
  int64_t sequences() const { return sequences_; }
  /// Bytes of one window: the context and the byte after it, as every byte but the first is predicted.
  int64_t window_bytes() const { return config_.context + 1; }
  MatmulRoute route() const { return route_; }

  /// Forward and backward over one micro-batch: `windows` holds exactly sequences() windows, one after the other.
  /// Writes the gradient of the mean loss, for all parameters, about last to first; returns the mean loss in nats per
  /// predicted byte. A loss that is not finite is no error.
  virtual absl::StatusOr<double> Gradients(absl::Span<const uint8_t> windows, const ParameterHooks<Storage>& hooks) = 0;
  /// The mean loss in nats per predicted byte over any number >= 1 of windows, without gradients. Another sequences()
  /// may change its last bits, as products of another shape may.
  virtual absl::StatusOr<double> Evaluate(absl::Span<const uint8_t> windows, const ParameterHooks<Storage>& hooks) = 0;
  /// The logits of the byte after `text`, which has 1 to context bytes. Costs a whole forward pass.
  virtual absl::Status NextByteLogits(absl::Span<const uint8_t> text, const ParameterHooks<Storage>& hooks,
                                      absl::Span<double> logits) = 0;

 protected:
  Model(const ModelConfig& config, int64_t sequences, MatmulRoute route)
      : config_(config), sequences_(sequences), route_(route) {}

 private:
  const ModelConfig config_;
  const int64_t sequences_;
  const MatmulRoute route_;
};

template <>
absl::StatusOr<std::unique_ptr<Model<Bf16>>> Model<Bf16>::Create(const ModelConfig& config, int64_t sequences,
                                                                 MatmulRoute route);
template <>
absl::StatusOr<std::unique_ptr<Model<double>>> Model<double>::Create(const ModelConfig& config, int64_t sequences,
                                                                     MatmulRoute route);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_TRAIN_MODEL_H_
