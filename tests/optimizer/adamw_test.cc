#include "shardstep/optimizer/adamw.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "rule_oracles.h"
#include "thousand_steps.h"

namespace shardstep {
namespace {

TEST(PowerBySquaringTest, IsThePowerWithinARoundingPerSquare) {
  for (const double base : {0.0, 0.5, 0.9, 0.999, 0.9999, 1.0}) {
    for (const int64_t exponent : {0, 1, 2, 3, 7, 8, 100, 1000, 65535}) {
      const double power = PowerBySquaring(base, exponent);
      const long double exact = std::pow(static_cast<long double>(base), static_cast<long double>(exponent));
      EXPECT_LE(std::fabs(power - exact), 2e-16L * 1.01L * std::max<int64_t>(exponent, 1) * exact + 1e-320L)
          << base << "^" << exponent;
    }
  }
  EXPECT_EQ(PowerBySquaring(0.5, 1074), std::numeric_limits<double>::denorm_min());
  EXPECT_EQ(PowerBySquaring(0.9, std::numeric_limits<int64_t>::max()), 0);
}

TEST(PowerBySquaringTest, MultipliesInTheContractsOrder) {
  // Lowest bit first: 13 = 1101b, so ((1 * b) * b^4) * b^8 with b^4 = (b^2)^2.
  const double b = 0.9;
  const double b2 = b * b;
  const double b4 = b2 * b2;
  EXPECT_EQ(PowerBySquaring(b, 13), (b * b4) * (b4 * b4));
  EXPECT_NE(PowerBySquaring(b, 13), std::pow(b, 13)) << "this base no longer tells the orders apart";
}

TEST(AdamWScalarsTest, RoundEachDoubleOnce) {
  const AdamWOptions options = {
      .beta1 = 0.87, .beta2 = 0.9973, .epsilon = 3e-9, .weight_decay = 0.07, .learning_rate_factor = 0.3};
  const AdamWScalars s = MakeAdamWScalars(options, 0.011, 3);
  const double rate = 0.011 * 0.3;
  EXPECT_EQ(s.beta1, static_cast<float>(0.87));
  EXPECT_EQ(s.one_minus_beta1, static_cast<float>(1 - 0.87));
  EXPECT_EQ(s.beta2, static_cast<float>(0.9973));
  EXPECT_EQ(s.one_minus_beta2, static_cast<float>(1 - 0.9973));
  EXPECT_NE(s.one_minus_beta2, 1 - s.beta2) << "these options do not tell double from float";
  EXPECT_EQ(s.lr_weight_decay, static_cast<float>(rate * 0.07));
  EXPECT_EQ(s.step_size, static_cast<float>(rate / (1 - 0.87 * (0.87 * 0.87))));
  EXPECT_EQ(s.rbc2, static_cast<float>(1 / std::sqrt(1 - 0.9973 * (0.9973 * 0.9973))));
  EXPECT_EQ(s.epsilon, 3e-9f);
}

// The contract's formula once more, one rounding a line.
void StepByStep(const AdamWScalars& s, float g, float* w, float* m, float* v) {
  const float decayed_m = s.beta1 * *m;
  const float added_m = s.one_minus_beta1 * g;
  *m = decayed_m + added_m;
  const float square = g * g;
  const float decayed_v = s.beta2 * *v;
  const float added_v = s.one_minus_beta2 * square;
  *v = decayed_v + added_v;
  const float decay = s.lr_weight_decay * *w;
  *w = *w - decay;
  const float root = std::sqrt(*v);
  const float corrected = root * s.rbc2;
  const float denominator = corrected + s.epsilon;
  const float quotient = *m / denominator;
  const float change = s.step_size * quotient;
  *w = *w - change;
}

TEST(AdamWTest, RoundsOperationByOperation) {
  constexpr int kElements = 1024;
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  TrainedParameter trained({.rule = AdamWOptions()}, std::vector<float>(kElements));
  std::vector<Bf16> gradients(kElements);
  for (int step = 1; step <= 20; ++step) {
    for (Bf16& gradient : gradients) gradient = ToBf16(normal(random));
    const AdamWScalars scalars = MakeAdamWScalars(AdamWOptions(), 0.01, step);
    std::vector<float> w = trained.master, m = trained.first_moment, v = trained.second_moment;
    for (int i = 0; i < kElements; ++i) StepByStep(scalars, ToFloat(gradients[i]) * 0.3f, &w[i], &m[i], &v[i]);
    trained.Step(step, 0.01, 0.3f, gradients);
    ASSERT_EQ(trained.master, w);
    ASSERT_EQ(trained.first_moment, m);
    ASSERT_EQ(trained.second_moment, v);
    for (int i = 0; i < kElements; ++i) ASSERT_EQ(trained.weights[i], ToBf16(w[i]));
  }
}

WorstUlps Compare(const AdamWOptions& options, double learning_rate, uint32_t seed) {
  const rule_oracles::AdamW settings = {.learning_rate = learning_rate * options.learning_rate_factor,
                                        .beta1 = options.beta1,
                                        .beta2 = options.beta2,
                                        .epsilon = options.epsilon,
                                        .weight_decay = options.weight_decay};
  return CompareThousandSteps(
      {.rule = options}, learning_rate, seed,
      [&settings](int step, float gradient, const TrainedParameter&, size_t, rule_oracles::State* exact) {
        rule_oracles::Step(settings, step, gradient, exact);
      });
}

// The bounds are those of docs/numerics.md, a tenth above what is found.
TEST(AdamWTest, N3ThousandStepsStayWithinUlpsOfLongDouble) {
  const WorstUlps defaults = Compare(AdamWOptions(), 1e-3, 1);
  EXPECT_LE(defaults.master, 90);
  EXPECT_LE(defaults.first_moment, 6.5);
  EXPECT_LE(defaults.second_moment, 118);
  const WorstUlps strong = Compare(
      {.beta1 = 0.95, .beta2 = 0.98, .epsilon = 1e-6, .weight_decay = 0.1, .learning_rate_factor = 0.5}, 1e-2, 2);
  EXPECT_LE(strong.master, 38);
  EXPECT_LE(strong.first_moment, 8);
  EXPECT_LE(strong.second_moment, 32);
}

}  // namespace
}  // namespace shardstep
