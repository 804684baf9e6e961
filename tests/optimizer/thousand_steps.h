#ifndef SHARDSTEP_TESTS_OPTIMIZER_THOUSAND_STEPS_H_
#define SHARDSTEP_TESTS_OPTIMIZER_THOUSAND_STEPS_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "rule_oracles.h"
#include "shardstep/optimizer/shard_kernels.h"

namespace shardstep {

/// One parameter of `elements`, trained by the reference kernel from one gradient a step. fp32 masters.
class TrainedParameter {
 public:
  TrainedParameter(const GroupOptions& group, std::vector<float> start);

  /// Step `step` counts from 1.
  void Step(int step, double learning_rate, float scale, const std::vector<Bf16>& gradients);

  const RuleScalars& rule() const { return rule_; }
  std::vector<float> master, first_moment, second_moment;
  std::vector<Bf16> weights;

 private:
  GroupOptions group_;
  RuleScalars rule_;
};

/// Of signed values, which cross zero, in units of the largest magnitude they have had.
struct WorstUlps {
  double master = 0;
  double first_moment = 0;
  double second_moment = 0;
};

/// Trains 256 independent elements, whose gradients have scales from 1 down to 1e-6, for 1000 steps beside an oracle.
/// `oracle` steps one element: `trained` is before the step.
using OracleStep = std::function<void(int step, float gradient, const TrainedParameter& trained, size_t element,
                                      rule_oracles::State* exact)>;
WorstUlps CompareThousandSteps(const GroupOptions& group, double learning_rate, uint32_t seed,
                               const OracleStep& oracle);

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_OPTIMIZER_THOUSAND_STEPS_H_
