#ifndef SHARDSTEP_TESTS_OPTIMIZER_ADAMW_ORACLE_H_
#define SHARDSTEP_TESTS_OPTIMIZER_ADAMW_ORACLE_H_

/// AdamW in long double, in the order in which PyTorch states it. Shares no header with the library.
namespace adamw_oracle {

struct Settings {
  double learning_rate, beta1, beta2, epsilon, weight_decay;
};

struct State {
  long double parameter = 0;
  long double exp_avg = 0;
  long double exp_avg_sq = 0;
};

/// `step` counts from 1.
void Step(const Settings& settings, int step, long double gradient, State* state);

}  // namespace adamw_oracle

#endif  // SHARDSTEP_TESTS_OPTIMIZER_ADAMW_ORACLE_H_
