#include "shardstep/tools/precision/many_updates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace shardstep {
namespace {

using ::testing::ElementsAre;

// In units of 2^-44 the weight is 158 * 2^37, and the update the integer 13421773 * 131.
TEST(ManyUpdatesTest, ExactIsArithmeticOfIntegers) {
  const ManyUpdates updates = ComputeManyUpdates({}, {.steps = 10'000, .stochastic_weights = 1});
  for (const WeightAtStep& weight : updates.weights) {
    const int64_t units = (int64_t{158} << 37) - weight.step * 13421773 * 131;
    EXPECT_EQ(std::ldexp(weight.exact, 44), static_cast<double>(units)) << weight.step;
  }
  EXPECT_EQ(updates.weights.back().step, 10'000);
}

TEST(ManyUpdatesTest, NearestNeverMovesAndFp32Follows) {
  const ManyUpdates updates = ComputeManyUpdates({}, {.steps = 10'000, .stochastic_weights = 1});
  // fp32 in another way: a difference that double holds, rounded once.
  const double update = static_cast<float>(std::ldexp(double{13421773} * 131, -44));
  float fp32 = 158.0f / 128;
  int64_t step = 0;
  for (const WeightAtStep& weight : updates.weights) {
    for (; step < weight.step; ++step) fp32 = static_cast<float>(fp32 - update);
    EXPECT_EQ(ToFloat(weight.nearest), 158.0f / 128) << weight.step;
    EXPECT_EQ(weight.fp32, fp32) << weight.step;
    EXPECT_LE(std::abs(weight.fp32 - weight.exact), 0x1p-24 * static_cast<double>(weight.step)) << weight.step;
  }
}

TEST(ManyUpdatesTest, StochasticFollowsOnAverage) {
  const ManyUpdates updates = ComputeManyUpdates({}, {.steps = 5000, .stochastic_weights = 256, .seed = 7});
  const double standard_error = updates.stochastic_deviation / std::sqrt(256);
  EXPECT_GT(updates.stochastic_deviation, 0.01);
  EXPECT_LT(std::abs(updates.stochastic_mean - updates.weights.back().exact), 4 * standard_error);
}

TEST(ManyUpdatesTest, SeedDecidesTheRandomNumbersAndNothingElse) {
  const ManyUpdatesOptions options{.steps = 3000, .stochastic_weights = 2, .seed = 1};
  const ManyUpdates first = ComputeManyUpdates({}, options);
  const ManyUpdates again = ComputeManyUpdates({}, options);
  ManyUpdatesOptions other_options = options;
  other_options.seed = 2;
  const ManyUpdates other = ComputeManyUpdates({}, other_options);
  EXPECT_EQ(first.stochastic_mean, again.stochastic_mean);
  EXPECT_NE(first.stochastic_mean, other.stochastic_mean);
  EXPECT_GT(first.stochastic_deviation, 0) << "both weights got the same random numbers";
  EXPECT_EQ(first.weights.back().fp32, other.weights.back().fp32);
}

TEST(ManyUpdatesTest, ShowsTheFirstAndTheLastStep) {
  std::vector<int64_t> steps;
  for (const WeightAtStep& weight : ComputeManyUpdates({}, {.steps = 3}).weights) steps.push_back(weight.step);
  EXPECT_THAT(steps, ElementsAre(0, 1, 2, 3));
  const ManyUpdates odd = ComputeManyUpdates({}, {.steps = 1001, .stochastic_weights = 1});
  EXPECT_EQ(odd.weights.front().step, 0);
  EXPECT_EQ(odd.weights.back().step, 1001);
}

}  // namespace
}  // namespace shardstep
