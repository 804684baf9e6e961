#include "shardstep/tools/train/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>

#include "shardstep/tests/tools/model_fixture.h"
#include "shardstep/tests/tools/naive_gpt.h"

// The arrays of a model, and nothing else in this program, ask for aligned memory. Counted, and refused on demand.
namespace {
int64_t aligned_bytes = 0;
bool refuse_aligned = false;
}  // namespace

void* operator new(size_t size, std::align_val_t alignment) {
  const auto align = static_cast<size_t>(alignment);
  aligned_bytes += static_cast<int64_t>(size);
  void* memory = refuse_aligned ? nullptr : std::aligned_alloc(align, (size + align - 1) / align * align);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

namespace shardstep {
namespace {

using ::testing::HasSubstr;

constexpr ModelConfig kTiny{.layers = 2, .width = 12, .heads = 3, .context = 7};
constexpr ModelConfig kSmall{.layers = 2, .width = 64, .heads = 2, .context = 33};
constexpr int64_t kSequences = 3;

double RelativeError(const std::vector<Bf16>& actual, const std::vector<double>& expected) {
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = ToFloat(actual[i]) - expected[i];
    error += difference * difference;
    norm += expected[i] * expected[i];
  }
  return std::sqrt(error / norm);
}

// The derivative along a random direction of all of a parameter's elements, and along single elements.
TEST(ModelTest, GradientsOfTheReferenceMatchFiniteDifferences) {
  OwnedParameters<double> parameters = Widened(kTiny, TypicalParameters(kTiny));
  const auto model = MustCreate<double>(kTiny, kSequences, MatmulRoute::kFp32);
  const std::vector<uint8_t> windows = RandomWindows(kTiny, kSequences, 4);
  ASSERT_TRUE(model->Gradients(windows, parameters.hooks()).ok());
  for (size_t p = 0; p < parameters.names.size(); ++p) {
    std::vector<double>& weights = parameters.weights[p];
    const std::vector<double> original = weights;
    const auto loss_along = [&](const std::vector<double>& direction, double step) {
      for (size_t i = 0; i < weights.size(); ++i) weights[i] = original[i] + step * direction[i];
      const double loss = *model->Evaluate(windows, parameters.hooks());
      weights = original;
      return loss;
    };
    constexpr int kDirections = 5;
    for (int d = 0; d < kDirections; ++d) {
      std::vector<double> direction(weights.size());
      if (d == 0) {
        for (size_t i = 0; i < direction.size(); ++i) direction[i] = Noise(5, p, i);
      } else {
        direction[CounterRandom(6, p, d) % direction.size()] = 1;
      }
      double expected = 0;
      for (size_t i = 0; i < direction.size(); ++i) expected += direction[i] * parameters.gradients[p][i];
      constexpr double kStep = 1e-4;
      const double measured = (loss_along(direction, kStep) - loss_along(direction, -kStep)) / (2 * kStep);
      EXPECT_NEAR(measured, expected, 1e-8 + 1e-6 * std::abs(expected)) << parameters.names[p] << " direction " << d;
    }
  }
}

struct Bounds {
  double loss;
  double gradient;
};

// A gradient's own rounding to bf16 costs up to 2^-9 in any route.
void ExpectNearReference(MatmulRoute route, const Bounds& bounds) {
  OwnedParameters<Bf16> parameters = TypicalParameters(kSmall);
  OwnedParameters<double> reference = Widened(kSmall, parameters);
  const std::vector<uint8_t> windows = RandomWindows(kSmall, kSequences, 7);
  const auto model = MustCreate<Bf16>(kSmall, kSequences, route);
  ASSERT_EQ(model->route(), route);
  const auto loss = model->Gradients(windows, parameters.hooks());
  const auto expected = MustCreate<double>(kSmall, kSequences, route)->Gradients(windows, reference.hooks());
  ASSERT_TRUE(loss.ok()) << loss.status();
  ASSERT_TRUE(expected.ok()) << expected.status();
  EXPECT_NEAR(*loss, *expected, bounds.loss);
  double worst = 0;
  for (size_t p = 0; p < parameters.names.size(); ++p) {
    const double error = RelativeError(parameters.gradients[p], reference.gradients[p]);
    worst = std::max(worst, error);
    EXPECT_LE(error, bounds.gradient) << parameters.names[p];
  }
  ::testing::Test::RecordProperty("worst_relative_gradient_error", absl::StrCat(worst));
  ::testing::Test::RecordProperty("loss_error", absl::StrCat(std::abs(*loss - *expected)));
}

TEST(ModelTest, Fp32RouteIsNearTheReference) { ExpectNearReference(MatmulRoute::kFp32, {1e-6, 2.5e-3}); }

TEST(ModelTest, Bf16RouteIsNearTheReferenceWhereTheCpuHasIt) {
  if (FastestMatmulRoute() == MatmulRoute::kBf16) {
    ExpectNearReference(MatmulRoute::kBf16, {1e-3, 1e-2});
  } else {
    const auto model = Model<Bf16>::Create(kSmall, kSequences, MatmulRoute::kBf16);
    EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(model.status().message(), HasSubstr("route"));
  }
}

// The two routes must not be the same computation under two names.
TEST(ModelTest, RouteDecidesTheBits) {
  if (FastestMatmulRoute() != MatmulRoute::kBf16) return;
  const OwnedParameters<Bf16> original = TypicalParameters(kSmall);
  OwnedParameters<Bf16> bf16 = original;
  OwnedParameters<Bf16> fp32 = original;
  const std::vector<uint8_t> windows = RandomWindows(kSmall, kSequences, 7);
  const auto bf16_loss = MustCreate<Bf16>(kSmall, kSequences, MatmulRoute::kBf16)->Gradients(windows, bf16.hooks());
  const auto fp32_loss = MustCreate<Bf16>(kSmall, kSequences, MatmulRoute::kFp32)->Gradients(windows, fp32.hooks());
  EXPECT_NE(*bf16_loss, *fp32_loss);
}

class ModelRouteTest : public ::testing::TestWithParam<MatmulRoute> {};
INSTANTIATE_TEST_SUITE_P(Routes, ModelRouteTest,
                         ::testing::ValuesIn(FastestMatmulRoute() == MatmulRoute::kBf16
                                                 ? std::vector{MatmulRoute::kBf16, MatmulRoute::kFp32}
                                                 : std::vector{MatmulRoute::kFp32}),
                         [](const auto& route) { return std::string(MatmulRouteName(route.param)); });

TEST_P(ModelRouteTest, BitsDoNotDependOnCallHistory) {
  OwnedParameters<Bf16> fresh = TypicalParameters(kSmall);
  OwnedParameters<Bf16> used = TypicalParameters(kSmall);
  const std::vector<uint8_t> windows = RandomWindows(kSmall, kSequences, 8);
  const auto expected = MustCreate<Bf16>(kSmall, kSequences, GetParam())->Gradients(windows, fresh.hooks());

  const auto model = MustCreate<Bf16>(kSmall, kSequences, GetParam());
  ASSERT_TRUE(model->Gradients(RandomWindows(kSmall, kSequences, 9), used.hooks()).ok());
  ASSERT_TRUE(model->Evaluate(RandomWindows(kSmall, 2 * kSequences - 1, 10), used.hooks()).ok());
  const auto loss = model->Gradients(windows, used.hooks());
  EXPECT_EQ(*loss, *expected);
  EXPECT_EQ(used.gradients, fresh.gradients);
}

TEST_P(ModelRouteTest, EveryGradientIsWrittenWholeAndIsFinite) {
  OwnedParameters<Bf16> parameters = TypicalParameters(kSmall);
  ASSERT_TRUE(MustCreate<Bf16>(kSmall, kSequences, GetParam())
                  ->Gradients(RandomWindows(kSmall, kSequences, 8), parameters.hooks())
                  .ok());
  for (size_t p = 0; p < parameters.names.size(); ++p) {
    EXPECT_TRUE(std::all_of(parameters.gradients[p].begin(), parameters.gradients[p].end(), [](Bf16 value) {
      return IsFinite(value);
    })) << parameters.names[p];
  }
}

TEST_P(ModelRouteTest, HooksComeOncePerGradientAndBeforeEveryRead) {
  OwnedParameters<Bf16> parameters = TypicalParameters(kTiny);
  ASSERT_TRUE(MustCreate<Bf16>(kTiny, kSequences, GetParam())
                  ->Gradients(RandomWindows(kTiny, kSequences, 8), parameters.hooks())
                  .ok());
  const int count = static_cast<int>(parameters.names.size());
  const auto& events = parameters.events;

  std::vector<int> forward;
  size_t i = 0;
  for (; i < events.size() && events[i].what == "needed" && static_cast<int>(forward.size()) < count; ++i) {
    forward.push_back(events[i].parameter);
  }
  std::vector<int> in_order(count);
  for (int p = 0; p < count; ++p) in_order[p] = p;
  EXPECT_EQ(forward, in_order);

  std::vector<int> done;
  for (; i < events.size(); ++i) {
    if (events[i].what == "begin") {
      ASSERT_LT(i + 1, events.size());
      EXPECT_EQ(events[i + 1].what, "done");
      EXPECT_EQ(events[i + 1].parameter, events[i].parameter);
      done.push_back(events[i].parameter);
    }
  }
  std::reverse(done.begin(), done.end());
  EXPECT_EQ(done, in_order) << "gradients become ready from the last parameter to the first";
}

// A pass reads weights only through the hooks and only after weights_needed: until then they are NaN.
TEST_P(ModelRouteTest, WeightsAreReadOnlyOnceTheyAreNeeded) {
  const OwnedParameters<Bf16> ready = TypicalParameters(kTiny);
  OwnedParameters<Bf16> parameters = ready;
  for (auto& weights : parameters.weights) std::fill(weights.begin(), weights.end(), Bf16{kBf16CanonicalNan});
  ParameterHooks<Bf16> hooks = parameters.hooks();
  hooks.weights_needed = [&](int p) {
    parameters.weights[p] = ready.weights[p];
    return absl::OkStatus();
  };
  const auto model = MustCreate<Bf16>(kTiny, kSequences, GetParam());
  const auto loss = model->Evaluate(RandomWindows(kTiny, kSequences, 8), hooks);
  ASSERT_TRUE(loss.ok());
  EXPECT_TRUE(std::isfinite(*loss));
}

TEST_P(ModelRouteTest, AHooksErrorEndsThePass) {
  for (const std::string event : {"needed", "begin", "done"}) {
    OwnedParameters<Bf16> parameters = TypicalParameters(kTiny);
    parameters.failing_event = event;
    parameters.failing_parameter = ModelIndex::Block(1, ModelIndex::kExpandBias);
    const auto loss = MustCreate<Bf16>(kTiny, kSequences, GetParam())
                          ->Gradients(RandomWindows(kTiny, kSequences, 8), parameters.hooks());
    EXPECT_EQ(loss.status(), absl::AbortedError(absl::StrCat(event, " ", parameters.failing_parameter)));
    EXPECT_EQ(parameters.events.back(), (OwnedParameters<Bf16>::Event{event, parameters.failing_parameter}));
  }
}

TEST_P(ModelRouteTest, EvaluateGivesTheLossOfGradientsWhateverTheSequencesPerPass) {
  OwnedParameters<Bf16> parameters = TypicalParameters(kSmall);
  const std::vector<uint8_t> windows = RandomWindows(kSmall, 5, 11);
  const auto together = MustCreate<Bf16>(kSmall, 5, GetParam())->Gradients(windows, parameters.hooks());
  const auto alone = MustCreate<Bf16>(kSmall, 1, GetParam())->Evaluate(windows, parameters.hooks());
  const auto chunks = MustCreate<Bf16>(kSmall, 2, GetParam())->Evaluate(windows, parameters.hooks());
  ASSERT_TRUE(alone.ok());
  EXPECT_NEAR(*alone, *together, 1e-5);
  EXPECT_NEAR(*chunks, *together, 1e-5);
}

// NaN weights, as after a bad step, must be seen in the loss and not be swallowed by a maximum or a clamp.
TEST_P(ModelRouteTest, ANanWeightMakesTheLossNan) {
  for (const int p : {static_cast<int>(ModelIndex::kTokenEmbedding), ModelIndex::Block(0, ModelIndex::kQkvBias),
                      ModelIndex::Block(1, ModelIndex::kExpandWeight), ModelIndex::Head(kTiny)}) {
    OwnedParameters<Bf16> parameters = TypicalParameters(kTiny);
    std::fill(parameters.weights[p].begin(), parameters.weights[p].end(), Bf16{kBf16CanonicalNan});
    const auto loss = MustCreate<Bf16>(kTiny, kSequences, GetParam())
                          ->Evaluate(RandomWindows(kTiny, kSequences, 8), parameters.hooks());
    ASSERT_TRUE(loss.ok());
    EXPECT_TRUE(std::isnan(*loss)) << parameters.names[p];
  }
}

// Also: the prediction of a byte sees no later byte, and the loss is that of the bytes that follow.
TEST(ModelTest, LogitsAndLossAreThoseOfANaiveGpt) {
  OwnedParameters<double> parameters = Widened(kTiny, TypicalParameters(kTiny));
  const auto model = MustCreate<double>(kTiny, 2, MatmulRoute::kFp32);
  const std::vector<uint8_t> window = RandomWindows(kTiny, 1, 12);
  const std::vector<Vector> expected = NaiveLogits(kTiny, parameters.weights, {window.begin(), window.end() - 1});
  double sum = 0;
  for (int64_t i = 1; i <= kTiny.context; ++i) {
    std::vector<double> logits(kVocabulary);
    ASSERT_TRUE(
        model->NextByteLogits(absl::MakeConstSpan(window).subspan(0, i), parameters.hooks(), absl::MakeSpan(logits))
            .ok());
    EXPECT_THAT(logits, ::testing::Pointwise(::testing::DoubleNear(1e-12), expected[i - 1])) << i;
    double total = 0;
    for (const double logit : expected[i - 1]) total += std::exp(logit);
    sum += std::log(total) - expected[i - 1][window[i]];
  }
  EXPECT_NEAR(*model->Evaluate(window, parameters.hooks()), sum / kTiny.context, 1e-12);
}

TEST(ModelTest, RefusesWrongSizesByName) {
  OwnedParameters<Bf16> parameters = TypicalParameters(kTiny);
  const auto model = MustCreate<Bf16>(kTiny, kSequences, MatmulRoute::kFp32);
  std::vector<uint8_t> windows = RandomWindows(kTiny, kSequences, 8);
  windows.pop_back();
  EXPECT_THAT(model->Gradients(windows, parameters.hooks()).status().message(), HasSubstr("windows: 23 bytes"));
  EXPECT_THAT(model->Evaluate(windows, parameters.hooks()).status().message(), HasSubstr("windows: 23 bytes"));
  EXPECT_THAT(model->Evaluate({}, parameters.hooks()).status().message(), HasSubstr("windows: 0 bytes"));
  std::vector<double> logits(kVocabulary);
  EXPECT_THAT(model->NextByteLogits(windows, parameters.hooks(), absl::MakeSpan(logits)).message(), HasSubstr("text"));
  EXPECT_THAT(model->NextByteLogits({}, parameters.hooks(), absl::MakeSpan(logits)).message(), HasSubstr("text"));
  EXPECT_TRUE(parameters.events.empty());
  EXPECT_THAT(Model<Bf16>::Create(kTiny, 0, MatmulRoute::kFp32).status().message(), HasSubstr("sequences: 0"));
  ModelConfig config = kTiny;
  config.heads = 5;
  EXPECT_THAT(Model<Bf16>::Create(config, 1, MatmulRoute::kFp32).status().message(), HasSubstr("width: 12"));
}

TEST(ModelTest, WorkspaceBytesAreWhatIsAllocated) {
  constexpr ModelConfig kDeepAndNarrow{.layers = 9, .width = 8, .heads = 4, .context = 5};
  constexpr ModelConfig kLongContext{.layers = 1, .width = 16, .heads = 8, .context = 300};
  constexpr ModelConfig kWide{.layers = 1, .width = 256, .heads = 1, .context = 2};
  for (const ModelConfig& config : {kTiny, kSmall, kDeepAndNarrow, kLongContext, kWide}) {
    for (const MatmulRoute route : {MatmulRoute::kFp32, FastestMatmulRoute()}) {
      const int64_t before = aligned_bytes;
      const auto model = MustCreate<Bf16>(config, kSequences, route);
      // Three vectors of the model are not aligned arrays: a double and two bytes per row.
      const auto allocated = static_cast<double>(aligned_bytes - before + kSequences * config.context * 10);
      EXPECT_NEAR(static_cast<double>(*WorkspaceBytes(config, kSequences, route)), allocated, 0.01 * allocated)
          << config.width << " " << MatmulRouteName(route);
    }
  }
}

// Sizes within the limits of every field, whose product no host has.
TEST(ModelTest, MoreThanTheHostHasIsRefusedBeforeAnythingIsAllocated) {
  const int64_t before = aligned_bytes;
  const ModelConfig config{.context = 65536};
  const int64_t bytes = *WorkspaceBytes(config, 65536, MatmulRoute::kFp32);
  EXPECT_GT(bytes, int64_t{1} << 50);
  const absl::Status status = Model<Bf16>::Create(config, 65536, MatmulRoute::kFp32).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("model: needs ", bytes, " bytes")));
  EXPECT_EQ(aligned_bytes, before);
}

TEST(ModelTest, ProductsBeyondInt64AreRefusedByName) {
  const int64_t before = aligned_bytes;
  // 2^3 x 2^16 x 2^12 x 2^32 elements of 4 bytes: modulo 2^64 this is zero.
  const ModelConfig config{.layers = 8, .width = 4096, .heads = 4096, .context = 65536};
  for (const absl::Status& status : {WorkspaceBytes(config, 65536, MatmulRoute::kFp32).status(),
                                     Model<Bf16>::Create(config, 65536, MatmulRoute::kFp32).status(),
                                     Model<double>::Create(config, 65536, MatmulRoute::kFp32).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(status.message()), HasSubstr("attention probabilities"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("layers 8 x sequences 65536 x heads 4096 x context 65536"));
  }
  EXPECT_EQ(aligned_bytes, before);
  EXPECT_THAT(WorkspaceBytes(kTiny, 0, MatmulRoute::kFp32).status().message(), HasSubstr("sequences: 0"));
}

TEST(ModelTest, MemoryThatTheSystemRefusesIsAnErrorNotAnException) {
  refuse_aligned = true;
  const absl::Status status = Model<Bf16>::Create(kTiny, 1, MatmulRoute::kFp32).status();
  refuse_aligned = false;
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("model: no memory for"));
}

}  // namespace
}  // namespace shardstep
