#include "shardstep/tools/precision/gradient_sums.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace shardstep {
namespace {

// Rank 0 has 256, all others 1: bf16 holds every second integer from 256 on.
Bf16 LargeFirst(int64_t source, int64_t) { return ToBf16(source == 0 ? 256.0f : 1.0f); }

TEST(RingSumTest, EveryShardBeginsAfterItsOwner) {
  // Owner 0: 1 + 1 = 2, + 256 = 258. Owner 1: 1 + 256 = 257 -> 256, + 1 -> 256. Owner 2: 256 + 1 -> 256, + 1 -> 256.
  const float expected[] = {258, 258, 256, 256, 256, 256};
  for (int64_t element = 0; element < 6; ++element) {
    EXPECT_EQ(ToFloat(RingSum(LargeFirst, element, 6, 3)), expected[element]) << element;
  }
}

TEST(RingSumTest, EveryRankCountsOnce) {
  const Gradients powers = [](int64_t source, int64_t) { return ToBf16(static_cast<float>(1 << source)); };
  for (int64_t ranks = 1; ranks <= 8; ++ranks) {
    for (int64_t element = 0; element < 16; ++element) {
      EXPECT_EQ(ToFloat(RingSum(powers, element, 16, ranks)), (1 << ranks) - 1) << ranks << " " << element;
    }
  }
}

TEST(AccumulationErrorsTest, ByHand) {
  const std::vector<SumErrors> errors = ComputeAccumulationErrors(LargeFirst, 3, 4);
  ASSERT_EQ(errors.size(), 2u);
  EXPECT_EQ(errors[0].count, 2);
  EXPECT_DOUBLE_EQ(errors[0].bf16, 1.0 / 257);
  EXPECT_EQ(errors[0].fp32, 0);
  EXPECT_DOUBLE_EQ(errors[0].fp32_then_bf16, 1.0 / 257);
  // 259 lies between 258 = 129 * 2 and 260 = 130 * 2; the even one is 260.
  EXPECT_EQ(errors[1].count, 4);
  EXPECT_DOUBLE_EQ(errors[1].bf16, 3.0 / 259);
  EXPECT_EQ(errors[1].fp32, 0);
  EXPECT_DOUBLE_EQ(errors[1].fp32_then_bf16, 1.0 / 259);
  EXPECT_EQ(errors[1].exact_mean, 259);
  EXPECT_EQ(errors[1].bf16_mean, 256);
}

TEST(AccumulationErrorsTest, Fp32LosesWhatIsBelowItsOwnHalfUlp) {
  const Gradients gradients = [](int64_t source, int64_t) { return ToBf16(source == 0 ? 0x1p24f : 1.0f); };
  EXPECT_DOUBLE_EQ(ComputeAccumulationErrors(gradients, 2, 2).front().fp32, 1 / (0x1p24 + 1));
}

// Element 0 is wrong by 1 of 257, element 1 is right and 3: the norms are Euclidean, over both.
TEST(AccumulationErrorsTest, NormsAreOverElements) {
  const Gradients gradients = [](int64_t source, int64_t element) {
    return element == 0 ? LargeFirst(source, element) : ToBf16(static_cast<float>(source + 1));
  };
  const SumErrors errors = ComputeAccumulationErrors(gradients, 2, 2).front();
  EXPECT_DOUBLE_EQ(errors.bf16, 1 / std::sqrt(257.0 * 257 + 3 * 3));
  EXPECT_EQ(errors.exact_mean, 130);
  EXPECT_EQ(errors.bf16_mean, 129.5);
}

TEST(RankSumErrorsTest, ByHand) {
  const std::vector<SumErrors> errors = ComputeRankSumErrors(LargeFirst, 8, 8);
  ASSERT_EQ(errors.size(), 3u);
  // Four ranks: owner 0 adds 256 last to 3: 259 -> 260; all others end at 256 or, after 2 ones, at 258.
  // Owner 1: 1, 2, 258, 258 + 1 = 259 -> 260. Owner 2: 1, 257 -> 256, 256, 256. Owner 3: 256 throughout.
  const double squares = 2 * (1.0 + 1.0 + 9.0 + 9.0);
  EXPECT_EQ(errors[1].count, 4);
  EXPECT_DOUBLE_EQ(errors[1].bf16, std::sqrt(squares / (8 * 259.0 * 259.0)));
  EXPECT_EQ(errors[1].fp32, 0);
  EXPECT_EQ(errors[2].count, 8);
}

TEST(RandomGradientTest, ExactInADoubleAndAPureFunction) {
  std::set<uint16_t> seen;
  double mean = 0;
  for (int64_t source = 0; source < 64; ++source) {
    for (int64_t element = 0; element < 64; ++element) {
      const Bf16 gradient = RandomGradient(3, source, element);
      const double value = ToFloat(gradient);
      ASSERT_EQ(std::ldexp(value, 40), std::floor(std::ldexp(value, 40)));
      ASSERT_GE(value, -0x1p-10);
      ASSERT_LE(value, 3 * 0x1p-10);
      ASSERT_EQ(gradient, RandomGradient(3, source, element));
      seen.insert(gradient.bits);
      mean += value / 4096;
    }
  }
  EXPECT_GT(seen.size(), 500u);
  // The standard deviation of one is 4 / sqrt(12) * 2^-10; four standard errors of the mean of 4096.
  EXPECT_NEAR(mean, 0x1p-10, 4 * 0x1p-10 * 1.155 / 64);
  EXPECT_FALSE(RandomGradient(3, 1, 2) == RandomGradient(3, 2, 1) &&
               RandomGradient(3, 1, 3) == RandomGradient(3, 3, 1));
}

// The exact sum once more, in integers.
TEST(RandomGradientTest, DoublesAddThemExactly) {
  const Gradients gradients = [](int64_t source, int64_t element) { return RandomGradient(1, source, element); };
  int64_t sum = 0;
  for (int64_t source = 0; source < 4096; ++source) {
    for (int64_t element = 0; element < 4; ++element) {
      sum += static_cast<int64_t>(std::ldexp(ToFloat(gradients(source, element)), 40));
    }
  }
  EXPECT_EQ(ComputeAccumulationErrors(gradients, 4, 4096).back().exact_mean, std::ldexp(static_cast<double>(sum), -42));
}

}  // namespace
}  // namespace shardstep
