#include "shardstep/tools/precision/fp16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace shardstep {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The value of a pattern by IEEE 754's definition; infinity's pattern reads as the power of two after the largest
// value.
double Definition(uint16_t bits) {
  const int exponent = (bits >> 10) & 0x1f;
  const int fraction = bits & 0x3ff;
  const double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

TEST(Fp16Test, EveryPatternHasItsValueAndComesBack) {
  for (uint32_t pattern = 0; pattern <= 0xffff; ++pattern) {
    const Fp16 value{static_cast<uint16_t>(pattern)};
    const uint32_t magnitude = pattern & 0x7fff;
    if (magnitude > 0x7c00) {
      EXPECT_TRUE(std::isnan(ToFloat(value))) << pattern;
      EXPECT_EQ(ToFp16(ToFloat(value)).bits, kFp16CanonicalNan) << pattern;
      continue;
    }
    const double expected = magnitude < 0x7c00 ? Definition(value.bits) : pattern == 0x7c00 ? kInfinity : -kInfinity;
    EXPECT_EQ(ToFloat(value), expected) << pattern;
    EXPECT_EQ(std::signbit(ToFloat(value)), pattern >= 0x8000) << pattern;
    EXPECT_EQ(ToFp16(ToFloat(value)).bits, pattern);
  }
}

// Between two neighbours everything below the middle goes down, above it up, the middle itself to the even one.
TEST(Fp16Test, RoundsToNearestEvenBetweenAllNeighbours) {
  for (const uint16_t sign : {0x0000, 0x8000}) {
    for (uint16_t magnitude = 0; magnitude < 0x7c00; ++magnitude) {
      const auto low = static_cast<uint16_t>(sign | magnitude);
      const auto high = static_cast<uint16_t>(low + 1);
      const auto middle = static_cast<float>((Definition(low) + Definition(high)) / 2);
      const float outwards = sign == 0 ? kInfinity : -kInfinity;
      EXPECT_EQ(ToFp16(middle).bits, (low & 1) == 0 ? low : high) << low;
      EXPECT_EQ(ToFp16(std::nextafter(middle, 0.0f)).bits, low) << low;
      EXPECT_EQ(ToFp16(std::nextafter(middle, outwards)).bits, high) << low;
    }
  }
}

TEST(Fp16Test, FarOutsideItsRange) {
  EXPECT_EQ(ToFp16(std::numeric_limits<float>::max()).bits, 0x7c00);
  EXPECT_EQ(ToFp16(std::numeric_limits<float>::lowest()).bits, 0xfc00);
  EXPECT_EQ(ToFp16(std::numeric_limits<float>::denorm_min()).bits, 0x0000);
  EXPECT_EQ(ToFp16(-std::numeric_limits<float>::denorm_min()).bits, 0x8000);
}

}  // namespace
}  // namespace shardstep
