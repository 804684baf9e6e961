#include "adamw_oracle.h"

#include <cmath>

namespace adamw_oracle {

void Step(const Settings& settings, int step, long double gradient, State* state) {
  const long double lr = settings.learning_rate;
  const long double beta1 = settings.beta1;
  const long double beta2 = settings.beta2;
  state->parameter *= 1 - lr * settings.weight_decay;
  state->exp_avg += (gradient - state->exp_avg) * (1 - beta1);
  state->exp_avg_sq = state->exp_avg_sq * beta2 + gradient * gradient * (1 - beta2);
  const long double bias_correction1 = 1 - std::pow(beta1, static_cast<long double>(step));
  const long double bias_correction2 = 1 - std::pow(beta2, static_cast<long double>(step));
  const long double step_size = lr / bias_correction1;
  const long double denominator = std::sqrt(state->exp_avg_sq) / std::sqrt(bias_correction2) + settings.epsilon;
  state->parameter += -step_size * (state->exp_avg / denominator);
}

}  // namespace adamw_oracle
