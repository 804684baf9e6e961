#include "rule_oracles.h"

#include <cmath>

namespace rule_oracles {

void Step(const AdamW& settings, int step, long double gradient, State* state) {
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

void Step(const Sgd& settings, int step, long double gradient, State* state) {
  gradient += settings.weight_decay * state->parameter;
  if (settings.momentum != 0) {
    state->exp_avg = step == 1 ? gradient : state->exp_avg * settings.momentum + gradient;
    gradient = settings.nesterov ? gradient + settings.momentum * state->exp_avg : state->exp_avg;
  }
  state->parameter += -settings.learning_rate * gradient;
}

long double Direction(const Lion& settings, long double gradient, const State& state) {
  return state.exp_avg * settings.beta1 + gradient * (1 - static_cast<long double>(settings.beta1));
}

void Step(const Lion& settings, int sign, long double gradient, State* state) {
  state->parameter *= 1 - static_cast<long double>(settings.learning_rate) * settings.weight_decay;
  state->parameter += sign * -static_cast<long double>(settings.learning_rate);
  state->exp_avg = state->exp_avg * settings.beta2 + gradient * (1 - static_cast<long double>(settings.beta2));
}

}  // namespace rule_oracles
