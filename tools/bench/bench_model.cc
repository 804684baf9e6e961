#include "shardstep/tools/bench/bench_model.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace shardstep {
namespace {

constexpr int64_t kVocabulary = 50257;
constexpr int64_t kContext = 1024;
constexpr int64_t kFlatElements = int64_t{1} << 20;
constexpr int64_t kLargestFlat = int64_t{1} << 40;

// Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", table 2.
std::vector<ParameterSpec> Gpt2(int layers, int64_t width) {
  std::vector<ParameterSpec> parameters;
  const auto add = [&](std::string name, std::vector<int64_t> shape) {
    parameters.push_back({.name = std::move(name), .shape = std::move(shape)});
  };
  const auto add_with_bias = [&](const std::string& name, std::vector<int64_t> shape) {
    const int64_t outputs = shape.back();
    add(name + ".weight", std::move(shape));
    add(name + ".bias", {outputs});
  };
  add("wte.weight", {kVocabulary, width});
  add("wpe.weight", {kContext, width});
  for (int layer = 0; layer < layers; ++layer) {
    const std::string prefix = absl::StrCat("h.", layer, ".");
    add_with_bias(prefix + "ln_1", {width});
    add_with_bias(prefix + "attn.c_attn", {width, 3 * width});
    add_with_bias(prefix + "attn.c_proj", {width, width});
    add_with_bias(prefix + "ln_2", {width});
    add_with_bias(prefix + "mlp.c_fc", {width, 4 * width});
    add_with_bias(prefix + "mlp.c_proj", {4 * width, width});
  }
  add_with_bias("ln_f", {width});
  return parameters;
}

std::vector<ParameterSpec> Flat(int64_t elements) {
  std::vector<ParameterSpec> parameters;
  for (int64_t begin = 0; begin < elements; begin += kFlatElements) {
    parameters.push_back(
        {.name = absl::StrCat("flat.", parameters.size()), .shape = {std::min(kFlatElements, elements - begin)}});
  }
  return parameters;
}

// Steele, Lea, Flood 2014, "Fast Splittable Pseudorandom Number Generators": the mixing function of SplitMix64.
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// In [-1, 1), with 24 bits.
float Uniform(uint64_t stream, int parameter, int64_t element) {
  const uint64_t seed = Mix(stream * 0x9e3779b97f4a7c15u + static_cast<uint64_t>(parameter));
  const auto bits = static_cast<int32_t>(Mix(seed + static_cast<uint64_t>(element)) >> 40);
  return static_cast<float>(bits - (1 << 23)) * 0x1p-23f;
}

}  // namespace

absl::StatusOr<std::vector<ParameterSpec>> MakeBenchModel(absl::string_view model) {
  if (model == "gpt2-124m") return Gpt2(12, 768);
  if (model == "gpt2-355m") return Gpt2(24, 1024);
  absl::string_view count = model;
  int64_t elements = 0;
  if (absl::ConsumePrefix(&count, "flat:") && absl::SimpleAtoi(count, &elements) && elements >= 1 &&
      elements <= kLargestFlat) {
    return Flat(elements);
  }
  return absl::InvalidArgumentError(absl::StrCat("\"", model, "\" is no model: gpt2-124m, gpt2-355m or flat:<count>, ",
                                                 "with a count of 1 to ", kLargestFlat));
}

int64_t ElementCount(const std::vector<ParameterSpec>& parameters) {
  int64_t total = 0;
  for (const ParameterSpec& parameter : parameters) {
    int64_t elements = 1;
    for (const int64_t extent : parameter.shape) elements *= extent;
    total += elements;
  }
  return total;
}

float BenchMaster(int parameter, int64_t element) { return 0.02f * Uniform(0, parameter, element); }

Bf16 BenchGradient(int rank, int parameter, int64_t element) {
  return ToBf16(1e-3f * Uniform(1 + static_cast<uint64_t>(rank), parameter, element));
}

}  // namespace shardstep
