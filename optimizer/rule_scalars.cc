#include "shardstep/optimizer/rule_scalars.h"

#include <variant>

namespace shardstep {

double PowerBySquaring(double base, int64_t exponent) { return Power(base, exponent); }

AdamWScalars MakeAdamWScalars(const AdamWOptions& options, double learning_rate, int64_t applied_step) {
  return ScalarsOf(options, learning_rate, applied_step);
}

SgdScalars MakeSgdScalars(const SgdOptions& options, double learning_rate) { return ScalarsOf(options, learning_rate); }

LionScalars MakeLionScalars(const LionOptions& options, double learning_rate) {
  return ScalarsOf(options, learning_rate);
}

RuleSettings SettingsOf(const GroupOptions& group, int64_t begin_applied_step) {
  RuleSettings settings = {.rule = group.kind().rule, .begin_applied_step = begin_applied_step};
  if (const auto* adamw = std::get_if<AdamWOptions>(&group.rule)) settings.adamw = *adamw;
  if (const auto* sgd = std::get_if<SgdOptions>(&group.rule)) settings.sgd = *sgd;
  if (const auto* lion = std::get_if<LionOptions>(&group.rule)) settings.lion = *lion;
  return settings;
}

RuleScalars MakeRuleScalars(const GroupOptions& group, double learning_rate, int64_t applied_step) {
  return ScalarsOf(SettingsOf(group, 0), learning_rate, applied_step);
}

}  // namespace shardstep
