#include "shardstep/optimizer/exact_sum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>
#include <vector>

namespace shardstep {
namespace {

struct Case {
  std::vector<uint64_t> summands;
  uint64_t sum = 0;
};

const std::vector<Case>& Cases() {
  static const std::vector<Case> cases = {
#include "exact_sum_vectors.inc"
  };
  return cases;
}

uint64_t Bits(const ExactSum& sum) { return std::bit_cast<uint64_t>(sum.Round()); }

TEST(ExactSumTest, EqualsIntegersInEveryOrder) {
  std::mt19937 random(1);
  for (const Case& c : Cases()) {
    std::vector<uint64_t> values = c.summands;
    for (int order = 0; order < 20; ++order) {
      ExactSum sum;
      for (const uint64_t value : values) sum.Add(std::bit_cast<double>(value));
      ASSERT_EQ(Bits(sum), c.sum) << "case " << &c - Cases().data();
      sum.Normalize();
      ASSERT_EQ(Bits(sum), c.sum) << "case " << &c - Cases().data();
      std::shuffle(values.begin(), values.end(), random);
    }
  }
}

TEST(ExactSumTest, AddsUpOverRanksLimbByLimb) {
  for (const Case& c : Cases()) {
    for (const size_t ranks : {2, 3, 8}) {
      std::vector<ExactSum> parts(ranks);
      for (size_t i = 0; i < c.summands.size(); ++i) parts[i % ranks].Add(std::bit_cast<double>(c.summands[i]));
      ExactSum merged;
      ExactSum reduced;
      for (ExactSum& part : parts) {
        merged.Merge(part);
        part.Normalize();
        for (int l = 0; l < ExactSum::kLimbs; ++l) {
          if (l + 1 < ExactSum::kLimbs) {
            ASSERT_LT(part.limbs()[l], int64_t{1} << 32);
          }
          ASSERT_GE(part.limbs()[l], 0);
          reduced.limbs()[l] += part.limbs()[l];
        }
      }
      EXPECT_EQ(Bits(merged), c.sum);
      EXPECT_EQ(Bits(reduced), c.sum);
      // The limbs themselves are equal, not only what they round to.
      merged.Normalize();
      reduced.Normalize();
      EXPECT_TRUE(std::equal(merged.limbs().begin(), merged.limbs().end(), reduced.limbs().begin()));
    }
  }
}

TEST(ExactSumTest, CarriesBeforeALimbIsFull) {
  // Doubling by merges counts as 2^40 additions of a value whose every limb is nearly full.
  ExactSum sum;
  const double value = std::ldexp(static_cast<double>((int64_t{1} << 53) - 1), -200);
  sum.Add(value);
  for (int k = 1; k <= 40; ++k) {
    const ExactSum copy = sum;
    sum.Merge(copy);
    ASSERT_EQ(sum.Round(), std::ldexp(value, k));
  }
}

}  // namespace
}  // namespace shardstep
