#include "shardstep/tools/precision/many_updates.h"

#include <algorithm>
#include <cmath>

#include "shardstep/optimizer/master_weights.h"

namespace shardstep {
namespace {

constexpr int64_t kShownSteps = 200;

Bf16 UpdateStochastically(Bf16 weight, const OneUpdate& update, const ManyUpdatesOptions& options, int64_t step,
                          int64_t index) {
  const float updated = UpdateInFp32(ToFloat(weight), update.gradient, update.learning_rate);
  return RoundStochastically(updated, RandomBits16(options.seed, step, index));
}

void SetMoments(const std::vector<Bf16>& weights, ManyUpdates* result) {
  double sum = 0;
  for (const Bf16 weight : weights) sum += ToFloat(weight);
  result->stochastic_mean = sum / static_cast<double>(weights.size());
  double squares = 0;
  for (const Bf16 weight : weights) {
    const double difference = ToFloat(weight) - result->stochastic_mean;
    squares += difference * difference;
  }
  result->stochastic_deviation = std::sqrt(squares / static_cast<double>(weights.size()));
  result->stochastic_weights = static_cast<int64_t>(weights.size());
}

}  // namespace

ManyUpdates ComputeManyUpdates(const UpdateInputs& inputs, const ManyUpdatesOptions& options) {
  const OneUpdate update = ComputeOneUpdate(inputs);
  const double start = ToFloat(update.weight);
  ManyUpdates result;
  std::vector<Bf16> stochastic(options.stochastic_weights, update.weight);
  WeightAtStep now{
      .exact = start, .nearest = update.weight, .stochastic = update.weight, .fp32 = ToFloat(update.weight)};
  result.weights.push_back(now);
  const int64_t interval = std::max<int64_t>(1, options.steps / kShownSteps);
  while (now.step < options.steps) {
    ++now.step;
    now.exact = start - static_cast<double>(now.step) * update.update;
    now.nearest = ToBf16(UpdateInFp32(ToFloat(now.nearest), update.gradient, update.learning_rate));
    now.fp32 = UpdateInFp32(now.fp32, update.gradient, update.learning_rate);
    for (int64_t i = 0; i < options.stochastic_weights; ++i) {
      stochastic[i] = UpdateStochastically(stochastic[i], update, options, now.step, i);
    }
    now.stochastic = stochastic.front();
    if (now.step % interval == 0 || now.step == options.steps) result.weights.push_back(now);
  }
  SetMoments(stochastic, &result);
  return result;
}

}  // namespace shardstep
