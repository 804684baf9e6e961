// N2: the sum of 512 bf16 contributions beside the exact one, on every target.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernel_case.h"
#include "shardstep/comm/host_stream.h"

namespace shardstep {
namespace {

constexpr int kContributions = 512;
constexpr int kElements = 1100;  // not a whole number of vectors
// Everything summed here is a multiple of 2^-50 and, added up, below 2^13: what int64_t holds exactly.
constexpr int kUnitExponent = -50;
constexpr double kRoundoff = 0x1p-24;

int64_t Exactly(float value) {
  const auto units = static_cast<int64_t>(std::ldexp(static_cast<double>(value), -kUnitExponent));
  EXPECT_EQ(std::ldexp(static_cast<double>(units), kUnitExponent), value) << "no multiple of the unit";
  return units;
}

struct Sums {
  std::vector<float> computed;
  std::vector<int64_t> exact, magnitudes;  // sum of g, of |g|

  float RoundedOnce(int i) const { return std::ldexp(static_cast<float>(exact[i]), kUnitExponent); }
  // |computed - exact| / (u * sum of |g|)
  double Error(int i) const {
    return static_cast<double>(std::abs(Exactly(computed[i]) - exact[i])) /
           (kRoundoff * static_cast<double>(magnitudes[i]));
  }
  double WorstError() const {
    double worst = 0;
    for (int i = 0; i < kElements; ++i) worst = std::max(worst, Error(i));
    return worst;
  }
};

// Each contribution passes through at most this many roundings; adding the first to +0 is none.
int64_t Roundings(int64_t sum_group) {
  if (sum_group == 1) return kContributions - 1;
  return (sum_group - 1) + ((kContributions + sum_group - 1) / sum_group - 1);
}

// docs/numerics.md, section 1.
double Bound(int64_t sum_group) {
  const double k = static_cast<double>(Roundings(sum_group));
  return k / (1 - k * kRoundoff);
}

using Gradient = std::function<float(int j, int i)>;

class ManyContributionsTest : public ::testing::TestWithParam<std::string> {
 protected:
  static Sums Reduce(int64_t sum_group, const Gradient& gradient) {
    KernelCase job({.sizes = {kElements},
                    .slices = Slices(kContributions),
                    .accumulator = AccumulatorUse::kOut,
                    .sum_group = sum_group,
                    .first_micro_batch = 0});
    Sums sums{.exact = std::vector<int64_t>(kElements), .magnitudes = std::vector<int64_t>(kElements)};
    for (int j = 0; j < kContributions; ++j) {
      for (int i = 0; i < kElements; ++i) {
        const Bf16 value = ToBf16(gradient(j, i));
        job.gradients[j].bf16[i] = value;
        sums.exact[i] += Exactly(ToFloat(value));
        sums.magnitudes[i] += std::abs(Exactly(ToFloat(value)));
      }
    }
    InlineStream stream;
    EXPECT_TRUE(KernelsOf(GetParam())->Reduce(job.Reduce(), stream).ok());
    sums.computed = job.accumulator_out;
    return sums;
  }
};
INSTANTIATE_TEST_SUITE_P(Targets, ManyContributionsTest, ::testing::ValuesIn(RunnableTargets()),
                         [](const auto& target) { return target.param; });

std::vector<std::vector<float>> Random(uint32_t seed, const std::function<float(std::mt19937&)>& draw) {
  std::mt19937 random(seed);
  std::vector<std::vector<float>> values(kContributions, std::vector<float>(kElements));
  for (auto& contribution : values)
    std::generate(contribution.begin(), contribution.end(), [&] { return draw(random); });
  return values;
}

// In [-1, 1).
float Uniform(std::mt19937& random) { return std::ldexp(static_cast<float>(random() >> 8), -23) - 1.0f; }

// Magnitudes over twenty binary orders.
float OfManySizes(std::mt19937& random) { return std::ldexp(Uniform(random), -static_cast<int>(random() % 20)); }

TEST_P(ManyContributionsTest, N2CommonModeIsTheExactSumRoundedOnce) {
  // Every contribution of an element is its common mode, of either sign, and noise of up to 1/8 of it.
  const auto noise = Random(1, Uniform);
  const Gradient gradient = [&](int j, int i) {
    const float common = std::ldexp(i % 2 == 0 ? 1.0f + static_cast<float>(i) / kElements : -1.5f, i % 5 - 2);
    return common * (1 + noise[j][i] / 8);
  };
  for (const int64_t sum_group : {1, 32}) {
    const Sums sums = Reduce(sum_group, gradient);
    for (int i = 0; i < kElements; ++i) {
      ASSERT_EQ(sums.computed[i], sums.RoundedOnce(i)) << "element " << i << ", groups of " << sum_group;
      ASSERT_GT(std::abs(sums.computed[i]), 16);
    }
  }
}

TEST_P(ManyContributionsTest, N2ExponentsThatDifferByUpToSevenAddUpExactly) {
  // Full significands of both signs, exponents -7 to 0. Of one sign they add up to 24 bits.
  for (const bool signs : {false, true}) {
    const auto values = Random(2, [&](std::mt19937& random) {
      const float value = std::ldexp(static_cast<float>(128 + random() % 128), -7 - static_cast<int>(random() % 8));
      return signs && random() % 2 == 0 ? -value : value;
    });
    for (const int64_t sum_group : {1, 32}) {
      const Sums sums = Reduce(sum_group, [&](int j, int i) { return values[j][i]; });
      for (int i = 0; i < kElements; ++i) ASSERT_EQ(Exactly(sums.computed[i]), sums.exact[i]) << "element " << i;
    }
  }
}

TEST_P(ManyContributionsTest, N2OtherSumsAreWithinTheBound) {
  const auto values = Random(3, OfManySizes);
  struct Case {
    const char* name;
    Gradient gradient;
  };
  const Case cases[] = {
      {"common mode", [&](int j, int i) { return j % 2 == 0 ? 1 + values[j][i] / 8 : std::abs(values[j][i]); }},
      {"random signs", [&](int j, int i) { return values[j][i]; }},
      {"cancelling",
       [&](int j, int i) {
         // The second half takes back the first, in another order, all but a 64th.
         const int half = kContributions / 2;
         return j < half ? values[j][i] : values[(j * 37) % half][i] * (-63.0f / 64);
       }},
  };
  for (const Case& c : cases) {
    for (const int64_t sum_group : {1, 32}) {
      const Sums sums = Reduce(sum_group, c.gradient);
      const double worst = sums.WorstError();
      EXPECT_LE(worst, Bound(sum_group)) << c.name;
      EXPECT_GT(worst, 0) << c.name << ": nothing was rounded";
      RecordProperty(std::string(c.name) + (sum_group == 1 ? "" : " in groups"), std::to_string(worst));
    }
  }
}

TEST_P(ManyContributionsTest, N2TheWorstCase) {
  // 511 halves of the last place of 1 are lost one by one. In groups only those of the first group are.
  const Gradient gradient = [](int j, int) { return j == 0 ? 1.0f : 0x1p-24f; };
  const Sums sums = Reduce(1, gradient);
  const Sums grouped = Reduce(32, gradient);
  const double magnitude = 1 + 511 * kRoundoff;
  for (int i = 0; i < kElements; ++i) {
    ASSERT_DOUBLE_EQ(sums.Error(i), 511 / magnitude);
    ASSERT_DOUBLE_EQ(grouped.Error(i), 31 / magnitude);
  }
  EXPECT_LE(sums.WorstError(), Bound(1));
  EXPECT_LE(grouped.WorstError(), Bound(32));
}

}  // namespace
}  // namespace shardstep
