#include "shardstep/tools/precision/number_range.h"

#include <gtest/gtest.h>

#include <cmath>

namespace shardstep {
namespace {

// By the definition of the formats: 5 bits of exponent and 10 of fraction, 8 and 7.
TEST(NumberRangeTest, LimitsAreThoseOfTheFormats) {
  const std::vector<FormatLimits> formats = ComputeFormatLimits();
  ASSERT_EQ(formats.size(), 2u);
  EXPECT_EQ(formats[0].name, "fp16");
  EXPECT_EQ(formats[0].largest, 65504);
  EXPECT_EQ(formats[0].smallest_normal, 0x1p-14);
  EXPECT_EQ(formats[0].smallest, 0x1p-24);
  EXPECT_EQ(formats[0].spacing_at_one, 0x1p-10);
  EXPECT_EQ(formats[0].first_integer_lost, 2049);
  EXPECT_EQ(formats[1].name, "bf16");
  EXPECT_EQ(formats[1].largest, std::ldexp(255, 120));
  EXPECT_EQ(formats[1].smallest_normal, 0x1p-126);
  EXPECT_EQ(formats[1].smallest, 0x1p-133);
  EXPECT_EQ(formats[1].spacing_at_one, 0x1p-7);
  EXPECT_EQ(formats[1].first_integer_lost, 257);
}

TEST(NumberRangeTest, Fp16LosesTheEndsAndBf16KeepsAll) {
  bool has_lost = false;
  bool has_overflow = false;
  for (const RoundTrip& trip : ComputeRoundTrips()) {
    EXPECT_LE(std::abs(trip.in_bf16 - trip.value) / trip.value, 0x1p-8) << trip.value;
    if (trip.value < 0x1p-25) {
      EXPECT_EQ(trip.in_fp16, 0) << trip.value;
      has_lost = true;
    } else if (trip.value >= 65520) {
      EXPECT_TRUE(std::isinf(trip.in_fp16)) << trip.value;
      has_overflow = true;
    } else {
      EXPECT_LE(std::abs(trip.in_fp16 - trip.value), std::max(trip.value * 0x1p-11, 0x1p-25)) << trip.value;
    }
  }
  EXPECT_TRUE(has_lost);
  EXPECT_TRUE(has_overflow);
}

}  // namespace
}  // namespace shardstep
