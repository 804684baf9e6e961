#include "shardstep/comm/bf16.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace shardstep {
namespace {

bool IsNan(Bf16 value) { return (value.bits & 0x7fffu) > 0x7f80u; }

void ExpectAllPatternsRoundTrip() {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const Bf16 value{static_cast<uint16_t>(bits)};
    const uint16_t expected = IsNan(value) ? kBf16CanonicalNan : value.bits;
    ASSERT_EQ(ToBf16(ToFloat(value)).bits, expected) << std::hex << bits;
    ASSERT_EQ(IsFinite(value), (bits & 0x7fff) < 0x7f80) << std::hex << bits;
  }
}

// Between every two neighbours: below the middle down, above it up, the middle itself to the even one.
void ExpectNearestEven() {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    if ((bits & 0x7fff) >= 0x7f80) continue;
    const uint32_t low = bits << 16;
    const uint32_t up = bits + 1;  // the largest finite one rounds up to infinity
    ASSERT_EQ(ToBf16(FloatFromBits(low | 0x0001)).bits, bits);
    ASSERT_EQ(ToBf16(FloatFromBits(low | 0x7fff)).bits, bits);
    ASSERT_EQ(ToBf16(FloatFromBits(low | 0x8000)).bits, bits % 2 == 0 ? bits : up);
    ASSERT_EQ(ToBf16(FloatFromBits(low | 0x8001)).bits, up);
    ASSERT_EQ(ToBf16(FloatFromBits(low | 0xffff)).bits, up);
  }
}

TEST(Bf16Test, EveryPatternSurvivesAndNansBecomeTheCanonicalOne) { ExpectAllPatternsRoundTrip(); }

TEST(Bf16Test, RoundsToNearestTiesToEven) { ExpectNearestEven(); }

TEST(Bf16Test, EveryKindOfNanBecomesTheCanonicalOne) {
  for (const uint32_t bits : {0x7f800001u, 0x7fffffffu, 0xff800001u, 0xffffffffu, 0x7fc00000u, 0x7f80ffffu}) {
    EXPECT_EQ(ToBf16(FloatFromBits(bits)).bits, kBf16CanonicalNan) << std::hex << bits;
  }
  EXPECT_EQ(ToBf16(std::numeric_limits<float>::infinity()).bits, 0x7f80);
  EXPECT_EQ(ToBf16(-std::numeric_limits<float>::infinity()).bits, 0xff80);
  EXPECT_EQ(ToBf16(-0.0f).bits, 0x8000);
}

#if defined(__x86_64__)
// N5: numeric contract 5: the caller's flush-to-zero flags change nothing.
TEST(Bf16Test, DenormalsAreKeptUnderFlushToZero) {
  const unsigned int before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);  // FTZ and DAZ
  ExpectAllPatternsRoundTrip();
  ExpectNearestEven();
  EXPECT_EQ(_mm_getcsr() & 0x8040, 0x8040u);
  _mm_setcsr(before);
}
#endif

}  // namespace
}  // namespace shardstep
