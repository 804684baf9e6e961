#include "shardstep/tools/train/layers_kernels.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "hwy/targets.h"
#include "shardstep/tools/train/model_config.h"

namespace shardstep {
namespace {

// Odd, so that every vector width leaves a remainder.
constexpr int64_t kRows = 5;
constexpr int64_t kColumns = 77;
constexpr int64_t kSquare = 35;

template <typename T>
std::vector<T> Noise(int64_t count, uint64_t stream, double scale) {
  std::vector<T> values(count);
  for (int64_t i = 0; i < count; ++i) {
    const double value = scale * static_cast<double>(static_cast<int64_t>(CounterRandom(1, stream, i))) / 0x1p63;
    if constexpr (std::is_same_v<T, Bf16>) {
      values[i] = ToBf16(static_cast<float>(value));
    } else {
      values[i] = static_cast<T>(value);
    }
  }
  return values;
}

template <typename T>
std::vector<double> Widen(const std::vector<T>& values) {
  std::vector<double> wide;
  for (const T& value : values) {
    if constexpr (std::is_same_v<T, Bf16>) {
      wide.push_back(ToFloat(value));
    } else {
      wide.push_back(value);
    }
  }
  return wide;
}

/// Every kernel with a sum or a function in it, once; all results in one list.
template <typename Route>
std::vector<double> RunAll() {
  using Storage = typename Route::Storage;
  using Operand = typename Route::Operand;
  using Real = typename Route::Real;
  const LayerKernels<Route> kernels = GetLayerKernels<Route>();
  std::vector<double> results;
  const auto keep = [&results](const auto&... values) {
    (
        [&] {
          const std::vector<double> wide = Widen(values);
          results.insert(results.end(), wide.begin(), wide.end());
        }(),
        ...);
  };
  constexpr int64_t kCount = kRows * kColumns;
  const auto in = Noise<Real>(kCount, 1, 4);
  const auto gradient = Noise<Real>(kCount, 2, 1);
  // bf16 values in every route, so that routes can be compared.
  std::vector<Storage> weight(kColumns);
  std::vector<Storage> bias(kColumns);
  const auto weight16 = Noise<Bf16>(kColumns, 3, 2);
  const auto bias16 = Noise<Bf16>(kColumns, 4, 2);
  for (int64_t j = 0; j < kColumns; ++j) {
    if constexpr (std::is_same_v<Storage, Bf16>) {
      weight[j] = weight16[j];
      bias[j] = bias16[j];
    } else {
      weight[j] = ToFloat(weight16[j]);
      bias[j] = ToFloat(bias16[j]);
    }
  }
  std::vector<Operand> out(kCount);
  std::vector<Operand> slope(kCount);
  std::vector<Real> mean(kRows);
  std::vector<Real> inverse(kRows);
  kernels.layer_norm(kRows, kColumns, in.data(), weight.data(), bias.data(), out.data(), mean.data(), inverse.data());
  keep(out, mean, inverse);
  std::vector<Real> in_gradient = Noise<Real>(kCount, 5, 1);
  std::vector<Real> sums(kColumns);
  std::vector<Real> sums2(kColumns);
  kernels.layer_norm_backward(kRows, kColumns, in.data(), mean.data(), inverse.data(), weight.data(), gradient.data(),
                              in_gradient.data(), sums.data(), sums2.data());
  keep(in_gradient, sums, sums2);
  kernels.gelu(kRows, kColumns, in.data(), bias.data(), out.data(), slope.data());
  keep(out, slope);
  kernels.gelu_backward(kRows, kColumns, gradient.data(), slope.data(), out.data(), sums.data());
  keep(out, sums);
  kernels.to_operand_and_sum_rows(kRows, kColumns, gradient.data(), out.data(), sums.data());
  keep(out, sums);
  std::vector<Real> scores = Noise<Real>(kSquare * kSquare, 6, 10);
  const auto score_gradient = Noise<Real>(kSquare * kSquare, 7, 1);
  std::vector<Operand> probabilities(kSquare * kSquare);
  std::vector<Operand> square(kSquare * kSquare);
  kernels.causal_softmax(kSquare, Real{0.5}, scores.data(), probabilities.data());
  kernels.causal_softmax_backward(kSquare, Real{0.5}, probabilities.data(), score_gradient.data(), square.data());
  keep(probabilities, square);
  std::vector<Real> logits = in;
  std::vector<uint8_t> targets = {0, 76, 13, 5, 40};
  std::vector<double> losses(kRows);
  kernels.cross_entropy(kRows, kColumns, targets.data(), Real{0.25}, logits.data(), losses.data(), out.data());
  keep(losses, out);
  return results;
}

/// Restores the choice of target.
class TargetChoice {
 public:
  explicit TargetChoice(int64_t target) { Choose(target); }
  ~TargetChoice() { Choose(0); }

 private:
  static void Choose(int64_t target) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};

template <typename Route>
class LayerKernelsTest : public ::testing::Test {};
using Routes = ::testing::Types<Bf16Route, Fp32Route, DoubleRoute>;
TYPED_TEST_SUITE(LayerKernelsTest, Routes);

TYPED_TEST(LayerKernelsTest, EveryTargetGivesTheSameBits) {
  const std::vector<double> expected = RunAll<TypeParam>();
  int targets = 0;
  for (int64_t remaining = hwy::SupportedTargets(); remaining != 0; remaining &= remaining - 1) {
    const int64_t target = remaining & -remaining;
    const TargetChoice choice(target);
    ASSERT_EQ(RunAll<TypeParam>(), expected) << hwy::TargetName(target);
    ++targets;
  }
  EXPECT_GE(targets, 2);
}

TEST(LayerKernelsAccuracyTest, Fp32IsNearDouble) {
  const std::vector<double> expected = RunAll<DoubleRoute>();
  const std::vector<double> actual = RunAll<Fp32Route>();
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], 3e-6 * (1 + std::abs(expected[i]))) << i;
  }
}

float Gelu(float x, float* slope) {
  const Bf16 bias{};
  float out = 0;
  GetLayerKernels<Fp32Route>().gelu(1, 1, &x, &bias, &out, slope);
  return out;
}

TEST(LayerKernelsAccuracyTest, GeluIsTheTanhForm) {
  for (double x = -12; x <= 12; x += 0.0137) {
    const double u = std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x);
    const double u_slope = std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
    const double tanh = std::tanh(u);
    float slope = 0;
    EXPECT_NEAR(Gelu(static_cast<float>(x), &slope), 0.5 * x * (1 + tanh), 2e-6) << x;
    EXPECT_NEAR(slope, 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * u_slope, 4e-6) << x;
  }
}

TEST(LayerKernelsAccuracyTest, GeluTakesExtremesAndKeepsNan) {
  float slope = 0;
  EXPECT_EQ(Gelu(1e6f, &slope), 1e6f);
  EXPECT_EQ(slope, 1.0f);
  EXPECT_NEAR(Gelu(-1e6f, &slope), 0.0f, 1e-30f);
  EXPECT_NEAR(slope, 0.0f, 1e-20f);
  EXPECT_TRUE(std::isnan(Gelu(std::nanf(""), &slope)));
  EXPECT_TRUE(std::isnan(slope));
}

TEST(LayerKernelsAccuracyTest, SoftmaxRowsAreCausalAndSumToOne) {
  std::vector<float> scores = Noise<float>(kSquare * kSquare, 6, 300);
  std::vector<float> out(kSquare * kSquare, std::nanf(""));
  GetLayerKernels<Fp32Route>().causal_softmax(kSquare, 1.0f, scores.data(), out.data());
  for (int64_t i = 0; i < kSquare; ++i) {
    double sum = 0;
    for (int64_t j = 0; j < kSquare; ++j) {
      sum += out[i * kSquare + j];
      if (j > i) {
        EXPECT_EQ(out[i * kSquare + j], 0.0f);
      }
    }
    EXPECT_NEAR(sum, 1, 1e-6) << i;
  }
}

// A NaN anywhere in a row, first place or last, reaches the row's loss and gradient.
TEST(LayerKernelsAccuracyTest, CrossEntropyKeepsNan) {
  for (const int64_t place : {int64_t{0}, int64_t{17}, kColumns - 1}) {
    std::vector<float> logits = Noise<float>(kColumns, 8, 1);
    logits[place] = std::nanf("");
    const uint8_t target = 3;
    double loss = 0;
    std::vector<float> gradient(kColumns);
    GetLayerKernels<Fp32Route>().cross_entropy(1, kColumns, &target, 1.0f, logits.data(), &loss, gradient.data());
    EXPECT_TRUE(std::isnan(loss)) << place;
    EXPECT_TRUE(std::isnan(gradient[target])) << place;
  }
}

TEST(LayerKernelsAccuracyTest, StoreRoundsToNearestEvenAndKeepsDenormals) {
  const std::vector<float> in = {std::bit_cast<float>(0x3f808000u),      std::bit_cast<float>(0x3f818000u),
                                 std::bit_cast<float>(0x3f808001u),      std::bit_cast<float>(0x00018001u),
                                 std::numeric_limits<float>::infinity(), std::bit_cast<float>(0xffc12345u)};
  std::vector<Bf16> out(in.size());
  GetLayerKernels<Bf16Route>().store(static_cast<int64_t>(in.size()), in.data(), out.data());
  std::vector<int> bits;
  for (const Bf16 value : out) bits.push_back(value.bits);
  EXPECT_THAT(bits, ::testing::ElementsAre(0x3f80, 0x3f82, 0x3f81, 0x0002, 0x7f80, kBf16CanonicalNan));
}

}  // namespace
}  // namespace shardstep
