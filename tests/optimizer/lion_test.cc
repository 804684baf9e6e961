#include "shardstep/optimizer/lion.h"

#include <gtest/gtest.h>

#include <cmath>
#include <iostream>
#include <limits>
#include <random>
#include <vector>

#include "rule_oracles.h"
#include "thousand_steps.h"

namespace shardstep {
namespace {

float Direction(const LionScalars& s, float g, float m) {
  const float kept = s.beta1 * m;
  const float added = s.one_minus_beta1 * g;
  return kept + added;
}

// The formula once more, one rounding a line.
void StepByStep(const LionScalars& s, float g, float* w, float* m) {
  const float c = Direction(s, g, *m);
  const float decay = s.lr_weight_decay * *w;
  *w = *w - decay;
  const float change = s.learning_rate * (c > 0 ? 1.0f : c < 0 ? -1.0f : 0.0f);
  *w = *w - change;
  const float kept = s.beta2 * *m;
  const float added = s.one_minus_beta2 * g;
  *m = kept + added;
}

TEST(LionTest, RoundsOperationByOperation) {
  constexpr int kElements = 1024;
  const LionOptions options = {.beta1 = 0.87, .beta2 = 0.973, .weight_decay = 0.07, .learning_rate_factor = 0.3};
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  TrainedParameter trained({.rule = options}, std::vector<float>(kElements));
  std::vector<Bf16> gradients(kElements);
  for (int step = 1; step <= 20; ++step) {
    for (Bf16& gradient : gradients) gradient = ToBf16(normal(random));
    const LionScalars scalars = MakeLionScalars(options, 0.01);
    std::vector<float> w = trained.master, m = trained.first_moment;
    for (int i = 0; i < kElements; ++i) StepByStep(scalars, ToFloat(gradients[i]) * 0.3f, &w[i], &m[i]);
    trained.Step(step, 0.01, 0.3f, gradients);
    ASSERT_EQ(trained.master, w);
    ASSERT_EQ(trained.first_moment, m);
    for (int i = 0; i < kElements; ++i) ASSERT_EQ(trained.weights[i], ToBf16(w[i]));
  }
}

TEST(LionTest, SignOfZerosDenormalsAndNan) {
  // Directions: +0, -0, the smallest denormals of both signs, infinities, NaN; with a learning rate of 1 and no decay.
  const float denormal = std::numeric_limits<float>::denorm_min();
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> moments = {0.0f, -0.0f, denormal, -denormal, infinity, -infinity, NAN};
  TrainedParameter trained({.rule = LionOptions{.beta1 = 1, .beta2 = 0.5}}, {2.0f, 3.0f, 2.0f, 2.0f, 2.0f, 2.0f, 2.0f});
  trained.first_moment = moments;
  trained.Step(1, 1.0, 1, std::vector<Bf16>(moments.size()));
  const std::vector<float> expected = {2.0f, 3.0f, 1.0f, 3.0f, 1.0f, 3.0f};
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_EQ(FloatBits(trained.master[i]), FloatBits(expected[i])) << i;
  EXPECT_TRUE(std::isnan(trained.master[6]));
}

struct LionResult {
  WorstUlps ulps;
  int64_t decisions = 0;
  int64_t other_signs = 0;
};

// The oracle takes the signs that fp32 found, and counts those that it would have chosen otherwise.
LionResult Compare(const LionOptions& options, double learning_rate, uint32_t seed) {
  const rule_oracles::Lion settings = {.learning_rate = learning_rate * options.learning_rate_factor,
                                       .beta1 = options.beta1,
                                       .beta2 = options.beta2,
                                       .weight_decay = options.weight_decay};
  const LionScalars scalars = MakeLionScalars(options, learning_rate);
  LionResult result;
  const auto sign = [](long double value) { return value > 0 ? 1 : value < 0 ? -1 : 0; };
  result.ulps = CompareThousandSteps(
      {.rule = options}, learning_rate, seed,
      [&](int, float gradient, const TrainedParameter& trained, size_t i, rule_oracles::State* exact) {
        const int chosen = sign(Direction(scalars, gradient, trained.first_moment[i]));
        ++result.decisions;
        result.other_signs += chosen != sign(rule_oracles::Direction(settings, gradient, *exact)) ? 1 : 0;
        rule_oracles::Step(settings, chosen, gradient, exact);
      });
  std::cout << result.other_signs << " of " << result.decisions << " signs differ\n";
  return result;
}

// The bounds are those of docs/numerics.md, a tenth above what is found.
TEST(LionTest, N3ThousandStepsStayWithinUlpsOfLongDouble) {
  const LionResult defaults = Compare(LionOptions(), 1e-4, 1);
  EXPECT_LE(defaults.ulps.master, 484);
  EXPECT_LE(defaults.ulps.first_moment, 24.7);
  EXPECT_EQ(defaults.other_signs, 0);
  const LionResult strong =
      Compare({.beta1 = 0.95, .beta2 = 0.98, .weight_decay = 1.0, .learning_rate_factor = 0.5}, 1e-3, 2);
  EXPECT_LE(strong.ulps.master, 355);
  EXPECT_LE(strong.ulps.first_moment, 21.3);
  EXPECT_EQ(strong.other_signs, 0);
}

}  // namespace
}  // namespace shardstep
