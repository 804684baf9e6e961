#include "shardstep/tools/train/learning_rate.h"

#include <gtest/gtest.h>

#include <cmath>

namespace shardstep {
namespace {

constexpr LearningRateSchedule kSchedule = {.peak = 2.0, .warmup_steps = 10, .steps = 110, .final_fraction = 0.25};

TEST(LearningRateTest, RisesLinearly) {
  EXPECT_DOUBLE_EQ(LearningRate(kSchedule, 1), 0.2);
  EXPECT_DOUBLE_EQ(LearningRate(kSchedule, 5), 1.0);
  EXPECT_DOUBLE_EQ(LearningRate(kSchedule, 10), 2.0);
}

TEST(LearningRateTest, FallsAsHalfACosine) {
  for (int64_t step = 10; step <= 110; ++step) {
    const double cosine = std::cos(M_PI * static_cast<double>(step - 10) / 100.0);
    EXPECT_NEAR(LearningRate(kSchedule, step), 0.5 + 1.5 * 0.5 * (1.0 + cosine), 4e-16 * 4) << step;
  }
}

TEST(LearningRateTest, StaysAtItsEnd) {
  EXPECT_NEAR(LearningRate(kSchedule, 110), 0.5, 1e-15);
  EXPECT_EQ(LearningRate(kSchedule, 1000), LearningRate(kSchedule, 110));
}

TEST(LearningRateTest, EdgesOfTheSchedule) {
  EXPECT_EQ(LearningRate({.peak = 1, .warmup_steps = 0, .steps = 1, .final_fraction = 0}, 1), 0.0);
  EXPECT_EQ(LearningRate({.peak = 1, .warmup_steps = 3, .steps = 3, .final_fraction = 0}, 3), 1.0);
  for (int64_t step = 1; step <= 7; ++step) {
    const double rate = LearningRate({.peak = 1, .warmup_steps = 0, .steps = 7, .final_fraction = 0}, step);
    EXPECT_GE(rate, 0.0) << step;
    EXPECT_LE(rate, 1.0) << step;
  }
}

}  // namespace
}  // namespace shardstep
