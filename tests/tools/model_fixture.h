#ifndef SHARDSTEP_TESTS_TOOLS_MODEL_FIXTURE_H_
#define SHARDSTEP_TESTS_TOOLS_MODEL_FIXTURE_H_

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shardstep/tools/train/model.h"

namespace shardstep {

/// Weights and gradients of one model, owned here, with hooks that write down every call. Gradients start as NaN.
template <typename Storage>
struct OwnedParameters {
  explicit OwnedParameters(const ModelConfig& config) {
    for (const ParameterSpec& spec : ModelParameters(config)) {
      names.push_back(spec.name);
      weights.emplace_back(*ElementCount(spec));
      if constexpr (std::is_same_v<Storage, Bf16>) {
        gradients.emplace_back(weights.back().size(), Bf16{kBf16CanonicalNan});
      } else {
        gradients.emplace_back(weights.back().size(), std::numeric_limits<double>::quiet_NaN());
      }
    }
  }

  ParameterHooks<Storage> hooks() {
    const auto log = [this](const char* event) {
      return [this, event](int p) {
        events.push_back({event, p});
        return p == failing_parameter && failing_event == event ? absl::AbortedError(absl::StrCat(event, " ", p))
                                                                : absl::OkStatus();
      };
    };
    return {.weights_needed = log("needed"),
            .weights = [this](int p) { return absl::MakeConstSpan(weights[p]); },
            .gradient_begin = log("begin"),
            .gradient = [this](int p) { return absl::MakeSpan(gradients[p]); },
            .gradient_done = log("done")};
  }

  struct Event {
    std::string what;
    int parameter;
    bool operator==(const Event&) const = default;
  };
  std::vector<std::string> names;
  std::vector<std::vector<Storage>> weights, gradients;
  std::vector<Event> events;
  std::string failing_event;
  int failing_parameter = -1;
};

/// Models in tests use one thread: bits depend on the number, and idle OpenMP threads spin.
template <typename Storage>
std::unique_ptr<Model<Storage>> MustCreate(const ModelConfig& config, int64_t sequences, MatmulRoute route) {
  EXPECT_TRUE(SetComputeThreads(1).ok());
  auto model = Model<Storage>::Create(config, sequences, route);
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

/// A value in [-1, 1), a pure function of its arguments.
inline double Noise(uint64_t seed, uint64_t stream, uint64_t counter) {
  return static_cast<double>(static_cast<int64_t>(CounterRandom(seed, stream, counter))) / 0x1p63;
}

/// Weights far enough from their initial values that no gradient is about zero and no term cancels: all biases are
/// non-zero, LayerNorm weights differ.
inline OwnedParameters<Bf16> TypicalParameters(const ModelConfig& config) {
  OwnedParameters<Bf16> parameters(config);
  for (size_t p = 0; p < parameters.weights.size(); ++p) {
    std::vector<float> initial(parameters.weights[p].size());
    FillInitial(config, 1, static_cast<int>(p), 0, absl::MakeSpan(initial));
    for (size_t i = 0; i < initial.size(); ++i) {
      parameters.weights[p][i] = ToBf16(initial[i] + 0.1f * static_cast<float>(Noise(2, p, i)));
    }
  }
  return parameters;
}

inline OwnedParameters<double> Widened(const ModelConfig& config, const OwnedParameters<Bf16>& narrow) {
  OwnedParameters<double> wide(config);
  for (size_t p = 0; p < narrow.weights.size(); ++p) {
    for (size_t i = 0; i < narrow.weights[p].size(); ++i) wide.weights[p][i] = ToFloat(narrow.weights[p][i]);
  }
  return wide;
}

inline std::vector<uint8_t> RandomWindows(const ModelConfig& config, int64_t windows, uint64_t seed) {
  std::vector<uint8_t> bytes(windows * (config.context + 1));
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(CounterRandom(seed, 3, i));
  return bytes;
}

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_TOOLS_MODEL_FIXTURE_H_
