#include "shardstep/optimizer/master_weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "kernel_oracle.h"
#include "shardstep/optimizer/philox.h"

namespace shardstep {
namespace {

// Of the patterns with these upper bits, how many do not come back, or a NaN as another than 0x7fc00000. Free of
// branches, so that the compiler takes several at a time.
uint32_t CountWrong(uint32_t upper) {
  uint32_t wrong = 0;
  for (uint32_t lower = 0; lower < 1 << 16; ++lower) {
    const uint32_t bits = upper << 16 | lower;
    const uint32_t expected = (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc00000 : bits;
    wrong += FloatBits(Join(Split(FloatFromBits(bits)))) != expected ? 1 : 0;
  }
  return wrong;
}

TEST(SplitMasterTest, N4EveryPatternComesBack) {
  for (uint32_t upper = 0; upper < 1 << 16; ++upper) ASSERT_EQ(CountWrong(upper), 0u) << std::hex << upper;
}

TEST(SplitMasterTest, WeightsAreNearestTiesAwayFromZero) {
  for (uint32_t upper = 0; upper < 1 << 16; ++upper) {
    for (const uint32_t lower : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const float value = FloatFromBits(upper << 16 | lower);
      ASSERT_EQ(Split(value).weight.bits, OracleNearestAway(value)) << std::hex << (upper << 16 | lower);
    }
  }
  EXPECT_EQ(Split(FloatFromBits(0x3f808000)).weight.bits, 0x3f81) << "to even it would be 0x3f80";
  EXPECT_EQ(Split(FloatFromBits(0xbf808000)).weight.bits, 0xbf81);
}

TEST(RoundStochasticallyTest, GoesUpForAsManyRandomsAsItHasCome) {
  for (const uint32_t upper : {0x0000u, 0x3f80u, 0xbf80u, 0x7f7fu, 0x807fu}) {
    for (const uint32_t lower : {0x0000u, 0x0001u, 0x4000u, 0x8000u, 0xffffu}) {
      const float value = FloatFromBits(upper << 16 | lower);
      uint32_t ups = 0;
      for (uint32_t random = 0; random < 1 << 16; ++random) {
        const uint16_t rounded = RoundStochastically(value, static_cast<uint16_t>(random)).bits;
        ASSERT_EQ(rounded, OracleAtRandom(value, random));
        ups += rounded - upper;
      }
      EXPECT_EQ(ups, lower) << "on average it is not " << value;
    }
  }
  for (const uint16_t random : {0x0000, 0x8000, 0xffff}) {
    EXPECT_EQ(RoundStochastically(INFINITY, random).bits, 0x7f80);
    EXPECT_EQ(RoundStochastically(-INFINITY, random).bits, 0xff80);
    EXPECT_EQ(RoundStochastically(FloatFromBits(0x7f800001), random).bits, 0x7fc0);
    EXPECT_EQ(RoundStochastically(FloatFromBits(0xffffffff), random).bits, 0x7fc0);
  }
}

// The vectors of 10 rounds that the paper's authors publish with Random123.
TEST(PhiloxTest, KnownAnswers) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomBits16Test, ArePiecesOfADrawKeyedBySeedStepAndElement) {
  // Element 8 * q + piece; the step in the upper words of the counter, the seed in the key.
  const std::array<uint32_t, 4> draw =
      Philox4x32({0x00000007, 0x00000010, 0x00000005, 0x00000002}, {0x89abcdef, 0x01234567});
  const int64_t first = ((int64_t{0x10} << 32) + 7) * 8;
  for (int piece = 0; piece < 8; ++piece) {
    const uint32_t expected = draw[piece / 2] >> (piece % 2 == 0 ? 0 : 16) & 0xffff;
    EXPECT_EQ(RandomBits16(0x0123456789abcdef, (int64_t{2} << 32) + 5, first + piece), expected) << piece;
  }
  for (const uint64_t seed : {uint64_t{0}, ~uint64_t{0}}) {
    for (const int64_t step : {int64_t{1}, int64_t{1} << 40}) {
      for (const int64_t element : {int64_t{0}, int64_t{12345}, (int64_t{1} << 40) - 1}) {
        EXPECT_EQ(RandomBits16(seed, step, element),
                  OracleRandom(seed, static_cast<uint64_t>(step), static_cast<uint64_t>(element)));
      }
    }
  }
}

// Each figure's bound is 5 standard deviations of what independent uniform bits would give; the draws are fixed.
TEST(RandomBits16Test, AreUniformAndUnrelated) {
  constexpr int kDraws = 1 << 16;
  const double deviation = std::sqrt(1.0 / 12 / kDraws);
  for (const uint64_t seed : {1, 2}) {
    for (const int64_t step : {1, 2, 1000}) {
      double sum = 0;
      double with_next = 0;
      double with_next_step = 0;
      double with_next_seed = 0;
      for (int64_t e = 0; e < kDraws; ++e) {
        const auto centred = [](uint16_t random) { return (random + 0.5) / 65536 - 0.5; };
        const double random = centred(RandomBits16(seed, step, e));
        sum += random;
        with_next += random * centred(RandomBits16(seed, step, e + 1));
        with_next_step += random * centred(RandomBits16(seed, step + 1, e));
        with_next_seed += random * centred(RandomBits16(seed + 1, step, e));
      }
      EXPECT_LT(std::fabs(sum / kDraws), 5 * deviation);
      for (const double product : {with_next, with_next_step, with_next_seed}) {
        EXPECT_LT(std::fabs(product / kDraws), 5.0 / 12 / std::sqrt(kDraws)) << "seed " << seed << ", step " << step;
      }
    }
  }
}

}  // namespace
}  // namespace shardstep
