#include "shardstep/optimizer/sgd.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "rule_oracles.h"
#include "thousand_steps.h"

namespace shardstep {
namespace {

// The formula once more, one rounding a line.
void StepByStep(const SgdScalars& s, float g, float* w, float* m) {
  const float decay = s.weight_decay * *w;
  float d = g + decay;
  if (s.momentum != 0) {
    const float kept = s.momentum * *m;
    *m = kept + d;
    if (s.nesterov) {
      const float ahead = s.momentum * *m;
      d = d + ahead;
    } else {
      d = *m;
    }
  }
  const float change = s.learning_rate * d;
  *w = *w - change;
}

TEST(SgdTest, RoundsOperationByOperation) {
  constexpr int kElements = 1024;
  for (const SgdOptions& options :
       {SgdOptions{}, SgdOptions{.weight_decay = 0.07}, SgdOptions{.momentum = 0.87, .weight_decay = 0.07},
        SgdOptions{.momentum = 0.87, .nesterov = true, .weight_decay = 0.07, .learning_rate_factor = 0.3}}) {
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    TrainedParameter trained({.rule = options}, std::vector<float>(kElements));
    std::vector<Bf16> gradients(kElements);
    for (int step = 1; step <= 20; ++step) {
      for (Bf16& gradient : gradients) gradient = ToBf16(normal(random));
      const SgdScalars scalars = MakeSgdScalars(options, 0.01);
      std::vector<float> w = trained.master, m = trained.first_moment;
      for (int i = 0; i < kElements; ++i) StepByStep(scalars, ToFloat(gradients[i]) * 0.3f, &w[i], &m[i]);
      trained.Step(step, 0.01, 0.3f, gradients);
      ASSERT_EQ(trained.master, w);
      ASSERT_EQ(trained.first_moment, m);
      for (int i = 0; i < kElements; ++i) ASSERT_EQ(trained.weights[i], ToBf16(w[i]));
    }
  }
}

WorstUlps Compare(const SgdOptions& options, double learning_rate, uint32_t seed) {
  const rule_oracles::Sgd settings = {.learning_rate = learning_rate * options.learning_rate_factor,
                                      .momentum = options.momentum,
                                      .weight_decay = options.weight_decay,
                                      .nesterov = options.nesterov};
  return CompareThousandSteps(
      {.rule = options}, learning_rate, seed,
      [&settings](int step, float gradient, const TrainedParameter&, size_t, rule_oracles::State* exact) {
        rule_oracles::Step(settings, step, gradient, exact);
      });
}

// The bounds are those of docs/numerics.md, a tenth above what is found.
TEST(SgdTest, N3ThousandStepsStayWithinUlpsOfLongDouble) {
  const WorstUlps plain = Compare({.weight_decay = 1e-4}, 0.1, 1);
  EXPECT_LE(plain.master, 50);
  EXPECT_EQ(plain.first_moment, 0);
  const WorstUlps momentum = Compare({.momentum = 0.9, .weight_decay = 1e-4}, 0.01, 2);
  EXPECT_LE(momentum.master, 96);
  EXPECT_LE(momentum.first_moment, 99);
  const WorstUlps nesterov =
      Compare({.momentum = 0.99, .nesterov = true, .weight_decay = 0.01, .learning_rate_factor = 0.5}, 0.01, 3);
  EXPECT_LE(nesterov.master, 27);
  EXPECT_LE(nesterov.first_moment, 24.5);
}

}  // namespace
}  // namespace shardstep
