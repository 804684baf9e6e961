#include "thousand_steps.h"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <random>
#include <utility>

namespace shardstep {
namespace {

// |value - exact| in units of the last place of an fp32 number as large as `size`.
double Ulps(float value, long double exact, long double size) {
  if (value == exact) return 0;
  const int exponent = std::max(std::ilogb(size), -126) - 23;
  return static_cast<double>(std::fabs(value - exact) / std::ldexp(1.0L, exponent));
}

// The same, of the largest magnitude so far.
void Measure(float value, long double exact, long double* largest, double* worst) {
  *largest = std::max(*largest, std::fabs(exact));
  *worst = std::max(*worst, Ulps(value, exact, *largest));
}

}  // namespace

TrainedParameter::TrainedParameter(const GroupOptions& group, std::vector<float> start)
    : master(std::move(start)),
      first_moment(master.size()),
      second_moment(master.size()),
      weights(master.size()),
      group_(group) {}

void TrainedParameter::Step(int step, double learning_rate, float scale, const std::vector<Bf16>& gradients) {
  const Segment segment = {.elements = static_cast<int64_t>(master.size())};
  const Slice slice = {.data = gradients.data()};
  void* const destination = weights.data();
  const UpdateScalars scalars = {.apply = true, .scale = scale, .applied_step = step};
  rule_ = MakeRuleScalars(group_, learning_rate, step);
  UpdateReference({.kind = group_.kind(),
                   .segments = absl::MakeConstSpan(&segment, 1),
                   .sum = {.slices = absl::MakeConstSpan(&slice, 1)},
                   .master = master.data(),
                   .first_moment = group_.kind().has_first_moment() ? first_moment.data() : nullptr,
                   .second_moment = group_.kind().has_second_moment() ? second_moment.data() : nullptr,
                   .destinations = absl::MakeConstSpan(&destination, 1),
                   .scalars = &scalars,
                   .rules = absl::MakeConstSpan(&rule_, 1)});
}

WorstUlps CompareThousandSteps(const GroupOptions& group, double learning_rate, uint32_t seed,
                               const OracleStep& oracle) {
  constexpr int kElements = 256;
  constexpr int kSteps = 1000;
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<float> start(kElements);
  std::vector<rule_oracles::State> exact(kElements), largest(kElements);
  std::vector<double> scales(kElements);
  for (int i = 0; i < kElements; ++i) {
    start[i] = static_cast<float>(normal(random));
    exact[i].parameter = start[i];
    scales[i] = std::pow(10.0, -6.0 * i / kElements);
  }
  TrainedParameter trained(group, start);
  std::vector<Bf16> gradients(kElements);
  WorstUlps worst;
  for (int step = 1; step <= kSteps; ++step) {
    for (int i = 0; i < kElements; ++i) {
      gradients[i] = ToBf16(static_cast<float>((normal(random) + 0.3) * scales[i]));
      oracle(step, ToFloat(gradients[i]), trained, i, &exact[i]);
    }
    trained.Step(step, learning_rate, 1, gradients);
    for (int i = 0; i < kElements; ++i) {
      Measure(trained.master[i], exact[i].parameter, &largest[i].parameter, &worst.master);
      Measure(trained.first_moment[i], exact[i].exp_avg, &largest[i].exp_avg, &worst.first_moment);
      Measure(trained.second_moment[i], exact[i].exp_avg_sq, &(largest[i].exp_avg_sq = 0), &worst.second_moment);
    }
  }
  std::cout << "worst ulps: master " << worst.master << ", first moment " << worst.first_moment << ", second moment "
            << worst.second_moment << "\n";
  return worst;
}

}  // namespace shardstep
