#ifndef SHARDSTEP_TOOLS_TRAIN_GENERATE_H_
#define SHARDSTEP_TOOLS_TRAIN_GENERATE_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "shardstep/comm/bf16.h"
#include "shardstep/comm/status.h"
#include "shardstep/tools/train/model.h"

namespace shardstep {

struct GenerateOptions {
  int64_t bytes = 256;       ///< to add to the prompt; >= 0
  double temperature = 0.8;  ///< logits are divided by it; 0 takes the likeliest byte
  uint64_t seed = 0;
};

/// The byte that `uniform`, in [0, 1), draws from softmax(logits / temperature); with temperature 0 the first of the
/// largest logits. Logits are finite.
uint8_t SampleByte(absl::Span<const double> logits, double temperature, double uniform);

/// `options.bytes` bytes that continue `prompt`, without it: the same for the same weights, prompt and options. Only
/// the last `context` bytes are seen. Each byte costs a whole pass over model.sequences() windows: use a model with
/// one. InvalidArgument names the field; a prompt is not empty. DataLoss when a logit is not finite.
absl::StatusOr<std::string> Generate(Model<Bf16>& model, const ParameterHooks<Bf16>& hooks, absl::string_view prompt,
                                     const GenerateOptions& options);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_TRAIN_GENERATE_H_
