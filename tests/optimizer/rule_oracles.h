#ifndef SHARDSTEP_TESTS_OPTIMIZER_RULE_ORACLES_H_
#define SHARDSTEP_TESTS_OPTIMIZER_RULE_ORACLES_H_

/// The rules in long double, in the order in which PyTorch or the paper states them. Shares no header with the library.
namespace rule_oracles {

struct State {
  long double parameter = 0;
  long double exp_avg = 0;  ///< or the momentum buffer
  long double exp_avg_sq = 0;
};

struct AdamW {
  double learning_rate, beta1, beta2, epsilon, weight_decay;
};
struct Sgd {
  double learning_rate, momentum, weight_decay;
  bool nesterov;
};
struct Lion {
  double learning_rate, beta1, beta2, weight_decay;
};

/// `step` counts from 1.
void Step(const AdamW& settings, int step, long double gradient, State* state);
void Step(const Sgd& settings, int step, long double gradient, State* state);
/// What Lion takes the sign of.
long double Direction(const Lion& settings, long double gradient, const State& state);
/// With `sign` as the direction's.
void Step(const Lion& settings, int sign, long double gradient, State* state);

}  // namespace rule_oracles

#endif  // SHARDSTEP_TESTS_OPTIMIZER_RULE_ORACLES_H_
