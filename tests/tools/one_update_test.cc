#include "shardstep/tools/precision/one_update.h"

#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_format.h"

namespace shardstep {
namespace {

// Calls `visit` with every finite bf16 value.
template <typename Visit>
void ForEachBf16(Visit visit) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const Bf16 value{static_cast<uint16_t>(bits)};
    if (IsFinite(value)) visit(value);
  }
}

Bf16 NearestBySearch(double wanted) {
  Bf16 nearest{0};
  ForEachBf16([&](Bf16 value) {
    if (std::abs(ToFloat(value) - wanted) < std::abs(ToFloat(nearest) - wanted)) nearest = value;
  });
  return nearest;
}

TEST(OneUpdateTest, TheWeightAndItsNeighbours) {
  const OneUpdate update = ComputeOneUpdate({});
  EXPECT_EQ(update.weight, NearestBySearch(1.23456));
  EXPECT_EQ(ToFloat(update.weight), 158.0f / 128);
  float below = 0;
  float above = 2;
  ForEachBf16([&](Bf16 value) {
    const float number = ToFloat(value);
    if (number < ToFloat(update.weight)) below = std::max(below, number);
    if (number > ToFloat(update.weight)) above = std::min(above, number);
  });
  EXPECT_EQ(ToFloat(update.below), below);
  EXPECT_EQ(ToFloat(update.above), above);
  EXPECT_EQ(update.half_ulp, 1.0 / 256);
}

// fp32(0.1) is 13421773 / 2^27 and bf16(0.001) is 131 / 2^17: the rest is arithmetic of integers.
TEST(OneUpdateTest, UpdateAndResultAreExact) {
  const OneUpdate update = ComputeOneUpdate({});
  EXPECT_EQ(update.gradient, NearestBySearch(1e-3));
  EXPECT_EQ(ToFloat(update.gradient), 131.0f / (1 << 17));
  EXPECT_EQ(std::ldexp(update.learning_rate, 27), 13421773);
  const int64_t product = int64_t{13421773} * 131;
  EXPECT_EQ(static_cast<int64_t>(std::ldexp(update.update, 44)), product);
  EXPECT_EQ(std::ldexp(update.exact, 44), static_cast<double>((int64_t{158} << 37) - product));
  EXPECT_LT(update.update, update.half_ulp);
}

TEST(OneUpdateTest, Bf16StaysAndFp32Moves) {
  const OneUpdate update = ComputeOneUpdate({});
  EXPECT_EQ(update.in_bf16, update.weight);
  EXPECT_LT(update.in_fp32, ToFloat(update.weight));
  EXPECT_LE(std::abs(update.in_fp32 - update.exact), 0x1p-24) << "half an ulp of fp32";
}

TEST(OneUpdateTest, AnUpdateAboveHalfAnUlpMovesBf16) {
  const OneUpdate update = ComputeOneUpdate({.gradient = 0.0625});
  EXPECT_GT(update.update, update.half_ulp);
  EXPECT_EQ(update.in_bf16, update.below);
}

TEST(OneUpdateTest, TheCopiedResultIsNoBf16Value) {
  const OneUpdate update = ComputeOneUpdate({});
  EXPECT_EQ(absl::StrFormat("%.6g", update.written_in_fp32), "1.23446");
  EXPECT_EQ(update.written_in_ulps, static_cast<double>(update.written_in_fp32) * 128);
  EXPECT_NE(update.written_in_ulps, std::round(update.written_in_ulps));
  ForEachBf16([&](Bf16 value) { EXPECT_NE(absl::StrFormat("%.6g", ToFloat(value)), "1.23446"); });
  EXPECT_EQ(update.written_as_bf16, NearestBySearch(update.written_in_fp32));
  EXPECT_EQ(update.written_as_bf16, update.weight);
}

TEST(OneUpdateTest, SpacingFollowsTheBinade) {
  EXPECT_EQ(Bf16Spacing(ToBf16(1.0f)), 0x1p-7);
  EXPECT_EQ(Bf16Spacing(ToBf16(1.9921875f)), 0x1p-7);
  EXPECT_EQ(Bf16Spacing(ToBf16(2.0f)), 0x1p-6);
  EXPECT_EQ(Bf16Spacing(ToBf16(0.75f)), 0x1p-8);
}

}  // namespace
}  // namespace shardstep
