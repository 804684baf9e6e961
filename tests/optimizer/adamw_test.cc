#include "shardstep/optimizer/adamw.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <limits>
#include <random>
#include <vector>

#include "adamw_oracle.h"
#include "shardstep/optimizer/shard_kernels.h"

namespace shardstep {
namespace {

TEST(PowerBySquaringTest, IsThePowerWithinARoundingPerSquare) {
  for (const double base : {0.0, 0.5, 0.9, 0.999, 0.9999, 1.0}) {
    for (const int64_t exponent : {0, 1, 2, 3, 7, 8, 100, 1000, 65535}) {
      const double power = PowerBySquaring(base, exponent);
      const long double exact = std::pow(static_cast<long double>(base), static_cast<long double>(exponent));
      EXPECT_LE(std::fabs(power - exact), 2e-16L * 1.01L * std::max<int64_t>(exponent, 1) * exact + 1e-320L)
          << base << "^" << exponent;
    }
  }
  EXPECT_EQ(PowerBySquaring(0.5, 1074), std::numeric_limits<double>::denorm_min());
  EXPECT_EQ(PowerBySquaring(0.9, std::numeric_limits<int64_t>::max()), 0);
}

TEST(PowerBySquaringTest, MultipliesInTheContractsOrder) {
  // Lowest bit first: 13 = 1101b, so ((1 * b) * b^4) * b^8 with b^4 = (b^2)^2.
  const double b = 0.9;
  const double b2 = b * b;
  const double b4 = b2 * b2;
  EXPECT_EQ(PowerBySquaring(b, 13), (b * b4) * (b4 * b4));
  EXPECT_NE(PowerBySquaring(b, 13), std::pow(b, 13)) << "this base no longer tells the orders apart";
}

TEST(AdamWScalarsTest, RoundEachDoubleOnce) {
  const AdamWOptions options = {
      .beta1 = 0.87, .beta2 = 0.9973, .epsilon = 3e-9, .weight_decay = 0.07, .learning_rate_factor = 0.3};
  const AdamWScalars s = MakeAdamWScalars(options, 0.011, 3);
  const double rate = 0.011 * 0.3;
  EXPECT_EQ(s.beta1, static_cast<float>(0.87));
  EXPECT_EQ(s.one_minus_beta1, static_cast<float>(1 - 0.87));
  EXPECT_EQ(s.beta2, static_cast<float>(0.9973));
  EXPECT_EQ(s.one_minus_beta2, static_cast<float>(1 - 0.9973));
  EXPECT_NE(s.one_minus_beta2, 1 - s.beta2) << "these options do not tell double from float";
  EXPECT_EQ(s.lr_weight_decay, static_cast<float>(rate * 0.07));
  EXPECT_EQ(s.step_size, static_cast<float>(rate / (1 - 0.87 * (0.87 * 0.87))));
  EXPECT_EQ(s.rbc2, static_cast<float>(1 / std::sqrt(1 - 0.9973 * (0.9973 * 0.9973))));
  EXPECT_EQ(s.epsilon, 3e-9f);
}

// The contract's formula once more, one rounding a line.
void StepByStep(const AdamWScalars& s, float g, float* w, float* m, float* v) {
  const float decayed_m = s.beta1 * *m;
  const float added_m = s.one_minus_beta1 * g;
  *m = decayed_m + added_m;
  const float square = g * g;
  const float decayed_v = s.beta2 * *v;
  const float added_v = s.one_minus_beta2 * square;
  *v = decayed_v + added_v;
  const float decay = s.lr_weight_decay * *w;
  *w = *w - decay;
  const float root = std::sqrt(*v);
  const float corrected = root * s.rbc2;
  const float denominator = corrected + s.epsilon;
  const float quotient = *m / denominator;
  const float change = s.step_size * quotient;
  *w = *w - change;
}

TEST(AdamWTest, RoundsOperationByOperation) {
  constexpr int kElements = 1024;
  const auto layout = ShardLayout::Create({{.name = "p", .shape = {kElements}}}, 1 << 20, 1);
  const std::vector<Segment> segments = layout->Segments(0, 0);
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> w(kElements), m(kElements), v(kElements);
  std::vector<Bf16> gradients(kElements), weights(kElements);
  const Slice slice = {.data = gradients.data()};
  Bf16* const destination = weights.data();
  UpdateScalars scalars = {.apply = true, .scale = 0.3f, .groups = {AdamWScalars()}};
  for (int step = 1; step <= 20; ++step) {
    for (Bf16& gradient : gradients) gradient = ToBf16(normal(random));
    scalars.groups[0] = MakeAdamWScalars(AdamWOptions(), 0.01, step);
    std::vector<float> expected_w = w, expected_m = m, expected_v = v;
    for (int i = 0; i < kElements; ++i) {
      const float g = ToFloat(gradients[i]) * 0.3f;
      StepByStep(scalars.groups[0], g, &expected_w[i], &expected_m[i], &expected_v[i]);
    }
    UpdateReference({.segments = segments,
                     .slices = absl::MakeConstSpan(&slice, 1),
                     .master = w.data(),
                     .first_moment = m.data(),
                     .second_moment = v.data(),
                     .destinations = absl::MakeConstSpan(&destination, 1),
                     .scalars = &scalars});
    ASSERT_EQ(w, expected_w);
    ASSERT_EQ(m, expected_m);
    ASSERT_EQ(v, expected_v);
    for (int i = 0; i < kElements; ++i) ASSERT_EQ(weights[i], ToBf16(expected_w[i]));
  }
}

// |value - exact| in units of the last place of an fp32 number as large as `size`.
double Ulps(float value, long double exact, long double size) {
  const int exponent = std::max(std::ilogb(size), -126) - 23;
  return static_cast<double>(std::fabs(value - exact) / std::ldexp(1.0L, exponent));
}

struct WorstUlps {
  double master = 0;
  double first_moment = 0;
  double second_moment = 0;
};

// Trains independent elements for 1000 steps beside the oracle. Signed values, which cross zero, are measured in units
// of the largest magnitude they have had.
WorstUlps Compare(const AdamWOptions& options, double learning_rate, uint32_t seed) {
  constexpr int kElements = 256;
  constexpr int kSteps = 1000;
  const auto layout = ShardLayout::Create({{.name = "p", .shape = {kElements}}}, 1 << 20, 1);
  const std::vector<Segment> segments = layout->Segments(0, 0);
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<float> master(kElements), first_moment(kElements), second_moment(kElements);
  std::vector<adamw_oracle::State> exact(kElements), largest(kElements);
  std::vector<double> scales(kElements);
  for (int i = 0; i < kElements; ++i) {
    master[i] = static_cast<float>(normal(random));
    exact[i].parameter = master[i];
    scales[i] = std::pow(10.0, -6.0 * i / kElements);
  }
  std::vector<Bf16> gradients(kElements);
  const Slice slice = {.data = gradients.data()};
  UpdateScalars scalars = {.apply = true, .scale = 1, .groups = {AdamWScalars()}};
  const adamw_oracle::Settings settings = {.learning_rate = learning_rate * options.learning_rate_factor,
                                           .beta1 = options.beta1,
                                           .beta2 = options.beta2,
                                           .epsilon = options.epsilon,
                                           .weight_decay = options.weight_decay};
  WorstUlps worst;
  for (int step = 1; step <= kSteps; ++step) {
    for (int i = 0; i < kElements; ++i) {
      gradients[i] = ToBf16(static_cast<float>((normal(random) + 0.3) * scales[i]));
      adamw_oracle::Step(settings, step, ToFloat(gradients[i]), &exact[i]);
    }
    scalars.groups[0] = MakeAdamWScalars(options, learning_rate, step);
    UpdateReference({.segments = segments,
                     .slices = absl::MakeConstSpan(&slice, 1),
                     .master = master.data(),
                     .first_moment = first_moment.data(),
                     .second_moment = second_moment.data(),
                     .destinations = {},
                     .scalars = &scalars});
    for (int i = 0; i < kElements; ++i) {
      largest[i].parameter = std::max(largest[i].parameter, std::fabs(exact[i].parameter));
      largest[i].exp_avg = std::max(largest[i].exp_avg, std::fabs(exact[i].exp_avg));
      worst.master = std::max(worst.master, Ulps(master[i], exact[i].parameter, largest[i].parameter));
      worst.first_moment = std::max(worst.first_moment, Ulps(first_moment[i], exact[i].exp_avg, largest[i].exp_avg));
      worst.second_moment =
          std::max(worst.second_moment, Ulps(second_moment[i], exact[i].exp_avg_sq, exact[i].exp_avg_sq));
    }
  }
  std::cout << "worst ulps: master " << worst.master << ", first moment " << worst.first_moment << ", second moment "
            << worst.second_moment << "\n";
  return worst;
}

// The bounds are those of docs/numerics.md, a tenth above what is found.
TEST(AdamWTest, N3ThousandStepsStayWithinUlpsOfLongDouble) {
  const WorstUlps defaults = Compare(AdamWOptions(), 1e-3, 1);
  EXPECT_LE(defaults.master, 90);
  EXPECT_LE(defaults.first_moment, 6.5);
  EXPECT_LE(defaults.second_moment, 118);
  const WorstUlps strong = Compare(
      {.beta1 = 0.95, .beta2 = 0.98, .epsilon = 1e-6, .weight_decay = 0.1, .learning_rate_factor = 0.5}, 1e-2, 2);
  EXPECT_LE(strong.master, 38);
  EXPECT_LE(strong.first_moment, 8);
  EXPECT_LE(strong.second_moment, 32);
}

}  // namespace
}  // namespace shardstep
