#ifndef SHARDSTEP_OPTIMIZER_RULE_SCALARS_H_
#define SHARDSTEP_OPTIMIZER_RULE_SCALARS_H_

#include <cmath>
#include <cstdint>

#include "shardstep/comm/host_device.h"
#include "shardstep/optimizer/step_words.h"
#include "shardstep/optimizer/update_rule.h"

/// What a kernel multiplies with, from a group's settings: numeric contract 4, in double, each rounded to fp32 once.
/// For sources of this project only: compiled with flags of their own, a trainer's may contract.

namespace shardstep {

/// See adamw.h.
SHARDSTEP_HOST_DEVICE inline double Power(double base, int64_t exponent) {
  double result = 1;
  for (double square = base; exponent > 0; exponent >>= 1, square *= square) {
    if ((exponent & 1) != 0) result *= square;
  }
  return result;
}

SHARDSTEP_HOST_DEVICE inline AdamWScalars ScalarsOf(const AdamWOptions& options, double learning_rate,
                                                    int64_t applied_step) {
  const double group_rate = learning_rate * options.learning_rate_factor;
  const double correction1 = 1 - Power(options.beta1, applied_step);
  const double correction2 = 1 - Power(options.beta2, applied_step);
  return {.beta1 = static_cast<float>(options.beta1),
          .one_minus_beta1 = static_cast<float>(1 - options.beta1),
          .beta2 = static_cast<float>(options.beta2),
          .one_minus_beta2 = static_cast<float>(1 - options.beta2),
          .lr_weight_decay = static_cast<float>(group_rate * options.weight_decay),
          .step_size = static_cast<float>(group_rate / correction1),
          .rbc2 = static_cast<float>(1 / std::sqrt(correction2)),
          .epsilon = static_cast<float>(options.epsilon)};
}

SHARDSTEP_HOST_DEVICE inline SgdScalars ScalarsOf(const SgdOptions& options, double learning_rate) {
  return {.momentum = static_cast<float>(options.momentum),
          .weight_decay = static_cast<float>(options.weight_decay),
          .learning_rate = static_cast<float>(learning_rate * options.learning_rate_factor),
          .nesterov = options.nesterov};
}

SHARDSTEP_HOST_DEVICE inline LionScalars ScalarsOf(const LionOptions& options, double learning_rate) {
  const double group_rate = learning_rate * options.learning_rate_factor;
  return {.beta1 = static_cast<float>(options.beta1),
          .one_minus_beta1 = static_cast<float>(1 - options.beta1),
          .beta2 = static_cast<float>(options.beta2),
          .one_minus_beta2 = static_cast<float>(1 - options.beta2),
          .lr_weight_decay = static_cast<float>(group_rate * options.weight_decay),
          .learning_rate = static_cast<float>(group_rate)};
}

/// For the applied step number `applied_step` of the optimizer, this one included.
SHARDSTEP_HOST_DEVICE inline RuleScalars ScalarsOf(const RuleSettings& settings, double learning_rate,
                                                   int64_t applied_step) {
  const int64_t since_begin = applied_step - settings.begin_applied_step;
  RuleScalars scalars;
  switch (settings.rule) {
    case Rule::kAdamW:
      scalars.adamw = ScalarsOf(settings.adamw, learning_rate, since_begin < 1 ? 1 : since_begin);
      break;
    case Rule::kSgd:
      scalars.sgd = ScalarsOf(settings.sgd, learning_rate);
      break;
    case Rule::kLion:
      scalars.lion = ScalarsOf(settings.lion, learning_rate);
      break;
  }
  return scalars;
}

/// `group` as plain words; its parameters' state began after `begin_applied_step` applied steps.
RuleSettings SettingsOf(const GroupOptions& group, int64_t begin_applied_step);

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_RULE_SCALARS_H_
