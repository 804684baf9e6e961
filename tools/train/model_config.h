#ifndef SHARDSTEP_TOOLS_TRAIN_MODEL_CONFIG_H_
#define SHARDSTEP_TOOLS_TRAIN_MODEL_CONFIG_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/shard_layout.h"

namespace shardstep {

/// A token is a byte.
inline constexpr int64_t kVocabulary = 256;
/// Hidden units of a block's MLP per unit of width.
inline constexpr int64_t kMlpExpansion = 4;

/// The shape of a byte-level GPT: token and position embedding, `layers` pre-LayerNorm blocks of causal self-attention
/// and a GELU MLP, a final LayerNorm, an untied head.
struct ModelConfig {
  int64_t layers = 4;
  int64_t width = 192;  ///< a multiple of heads
  int64_t heads = 3;
  int64_t context = 64;  ///< bytes that a prediction can see

  int64_t head_width() const { return width / heads; }
};

/// InvalidArgument, naming the field.
absl::Status ValidateModelConfig(const ModelConfig& config);

/// Parameter groups, as ParameterSpec::group.
inline constexpr int kDecayedGroup = 0;    ///< matrices
inline constexpr int kUndecayedGroup = 1;  ///< biases, LayerNorm, embeddings

/// Positions in ModelParameters, which lists parameters in the order in which the forward pass needs them. Weights of
/// linear layers are [in, out].
struct ModelIndex {
  static constexpr int kTokenEmbedding = 0;
  static constexpr int kPositionEmbedding = 1;
  static constexpr int kFirstBlock = 2;
  enum BlockParameter {
    kAttentionNormWeight,
    kAttentionNormBias,
    kQkvWeight,
    kQkvBias,
    kAttentionProjectionWeight,
    kAttentionProjectionBias,
    kMlpNormWeight,
    kMlpNormBias,
    kExpandWeight,
    kExpandBias,
    kMlpProjectionWeight,
    kMlpProjectionBias,
    kBlockParameters,
  };
  static int Block(int64_t block, BlockParameter parameter) {
    return kFirstBlock + static_cast<int>(block) * kBlockParameters + parameter;
  }
  static int FinalNormWeight(const ModelConfig& c) {
    return kFirstBlock + static_cast<int>(c.layers) * kBlockParameters;
  }
  static int FinalNormBias(const ModelConfig& c) { return FinalNormWeight(c) + 1; }
  static int Head(const ModelConfig& c) { return FinalNormWeight(c) + 2; }
  static int Count(const ModelConfig& c) { return FinalNormWeight(c) + 3; }
};

/// The parameters to register, all bf16, named like "block.3.attention.qkv.weight". `config` is valid.
std::vector<ParameterSpec> ModelParameters(const ModelConfig& config);

/// Initial fp32 values of elements [begin, begin + values.size()) of parameter `p`: biases 0, LayerNorm weights 1,
/// everything else about normal with deviation 0.02, residual projections 0.02 / sqrt(2 * layers). An element depends
/// on (seed, p, its position) only, so ranges compose and every rank and machine fills the same bits. Thread-safe.
void FillInitial(const ModelConfig& config, uint64_t seed, int p, int64_t begin, absl::Span<float> values);

/// 64 random bits, a pure function of its arguments.
uint64_t CounterRandom(uint64_t seed, uint64_t stream, uint64_t counter);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_TRAIN_MODEL_CONFIG_H_
