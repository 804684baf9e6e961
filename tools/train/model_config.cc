#include "shardstep/tools/train/model_config.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shardstep {
namespace {

constexpr int64_t kMaxLayers = 1000;
constexpr int64_t kMaxWidth = 65536;
constexpr int64_t kMaxContext = 65536;
constexpr double kInitialDeviation = 0.02;

absl::Status CheckRange(absl::string_view field, int64_t value, int64_t limit) {
  if (value >= 1 && value <= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", value, " is not between 1 and ", limit));
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection of 64 bits.
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// Mean 0, variance 1: the sum of eight uniform 16-bit integers, so exact and without libm.
double AboutNormal(uint64_t seed, uint64_t stream, uint64_t counter) {
  int64_t sum = 0;
  for (uint64_t half = 0; half < 2; ++half) {
    const uint64_t bits = CounterRandom(seed, stream, 2 * counter + half);
    for (int shift = 0; shift < 64; shift += 16) sum += static_cast<int64_t>(bits >> shift & 0xffff);
  }
  constexpr double kMean = 8 * 65535 / 2.0;
  const double deviation = std::sqrt(8.0 / 12.0 * (65536.0 * 65536.0 - 1.0));
  return (static_cast<double>(sum) - kMean) / deviation;
}

}  // namespace

absl::Status ValidateModelConfig(const ModelConfig& config) {
  SHARDSTEP_RETURN_IF_ERROR(CheckRange("layers", config.layers, kMaxLayers));
  SHARDSTEP_RETURN_IF_ERROR(CheckRange("width", config.width, kMaxWidth));
  SHARDSTEP_RETURN_IF_ERROR(CheckRange("heads", config.heads, config.width));
  SHARDSTEP_RETURN_IF_ERROR(CheckRange("context", config.context, kMaxContext));
  if (config.width % config.heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("width: ", config.width, " is not a multiple of heads, ", config.heads));
  }
  return absl::OkStatus();
}

std::vector<ParameterSpec> ModelParameters(const ModelConfig& config) {
  const int64_t width = config.width;
  const int64_t hidden = kMlpExpansion * width;
  std::vector<ParameterSpec> parameters;
  parameters.reserve(ModelIndex::Count(config));
  const auto add = [&](std::string name, std::vector<int64_t> shape, int group) {
    parameters.push_back({.name = std::move(name), .shape = std::move(shape), .group = group});
  };
  const auto add_norm = [&](const std::string& name) {
    add(name + ".weight", {width}, kUndecayedGroup);
    add(name + ".bias", {width}, kUndecayedGroup);
  };
  const auto add_linear = [&](const std::string& name, int64_t in, int64_t out) {
    add(name + ".weight", {in, out}, kDecayedGroup);
    add(name + ".bias", {out}, kUndecayedGroup);
  };
  add("embedding.token.weight", {kVocabulary, width}, kUndecayedGroup);
  add("embedding.position.weight", {config.context, width}, kUndecayedGroup);
  for (int64_t i = 0; i < config.layers; ++i) {
    const std::string block = absl::StrCat("block.", i);
    add_norm(block + ".attention.norm");
    add_linear(block + ".attention.qkv", width, 3 * width);
    add_linear(block + ".attention.projection", width, width);
    add_norm(block + ".mlp.norm");
    add_linear(block + ".mlp.expand", width, hidden);
    add_linear(block + ".mlp.projection", hidden, width);
  }
  add_norm("norm");
  add("head.weight", {width, kVocabulary}, kDecayedGroup);
  return parameters;
}

uint64_t CounterRandom(uint64_t seed, uint64_t stream, uint64_t counter) {
  constexpr uint64_t kGoldenRatio = 0x9e3779b97f4a7c15u;
  const uint64_t key = Mix(Mix(seed + kGoldenRatio) + kGoldenRatio * (stream + 1));
  return Mix(key + kGoldenRatio * (counter + 1));
}

void FillInitial(const ModelConfig& config, uint64_t seed, int p, int64_t begin, absl::Span<float> values) {
  const auto fill_normal = [&](double deviation) {
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(deviation * AboutNormal(seed, p, begin + i));
    }
  };
  if (p < ModelIndex::kFirstBlock || p == ModelIndex::Head(config)) return fill_normal(kInitialDeviation);
  // The final norm's weight and bias have the places of a block's first norm.
  switch ((p - ModelIndex::kFirstBlock) % ModelIndex::kBlockParameters) {
    case ModelIndex::kAttentionNormWeight:
    case ModelIndex::kMlpNormWeight:
      std::fill(values.begin(), values.end(), 1.0f);
      return;
    case ModelIndex::kQkvWeight:
    case ModelIndex::kExpandWeight:
      return fill_normal(kInitialDeviation);
    case ModelIndex::kAttentionProjectionWeight:
    case ModelIndex::kMlpProjectionWeight:
      return fill_normal(kInitialDeviation / std::sqrt(2.0 * static_cast<double>(config.layers)));
    default:
      std::fill(values.begin(), values.end(), 0.0f);
  }
}

}  // namespace shardstep
