#include "shardstep/optimizer/update_rule.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

namespace shardstep {
namespace {

bool AllFinite(std::initializer_list<float> values) {
  return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

}  // namespace

int64_t MasterBytes(const UpdateKind& kind, DType weight_dtype) {
  if (weight_dtype == DType::kFp32) return 0;
  switch (kind.master) {
    case Master::kFp32:
      return 4;
    case Master::kSplit:
      return 2;
    case Master::kNone:
      return 0;
  }
  return 0;
}

int64_t MomentBytes(const UpdateKind& kind) {
  return (kind.has_first_moment() ? 4 : 0) + (kind.has_second_moment() ? 4 : 0);
}

UpdateKind GroupOptions::kind() const {
  UpdateKind kind = {.master = master, .rounding = rounding};
  if (const auto* sgd = std::get_if<SgdOptions>(&rule)) {
    kind.rule = Rule::kSgd;
    kind.momentum = sgd->momentum != 0;
  } else if (std::holds_alternative<LionOptions>(rule)) {
    kind.rule = Rule::kLion;
  }
  return kind;
}

double GroupOptions::learning_rate_factor() const {
  return std::visit([](const auto& options) { return options.learning_rate_factor; }, rule);
}

bool IsFinite(const RuleScalars& scalars, Rule rule) {
  switch (rule) {
    case Rule::kAdamW: {
      const AdamWScalars& s = scalars.adamw;
      return AllFinite(
          {s.beta1, s.one_minus_beta1, s.beta2, s.one_minus_beta2, s.lr_weight_decay, s.step_size, s.rbc2, s.epsilon});
    }
    case Rule::kSgd:
      return AllFinite({scalars.sgd.momentum, scalars.sgd.weight_decay, scalars.sgd.learning_rate});
    case Rule::kLion: {
      const LionScalars& s = scalars.lion;
      return AllFinite({s.beta1, s.one_minus_beta1, s.beta2, s.one_minus_beta2, s.lr_weight_decay, s.learning_rate});
    }
  }
  return false;
}

absl::string_view Name(Rule rule) {
  switch (rule) {
    case Rule::kAdamW:
      return "adamw";
    case Rule::kSgd:
      return "sgd";
    case Rule::kLion:
      return "lion";
  }
  return "?";
}

absl::string_view Name(Master master) {
  switch (master) {
    case Master::kFp32:
      return "FP32";
    case Master::kSplit:
      return "SPLIT";
    case Master::kNone:
      return "NONE";
  }
  return "?";
}

absl::string_view Name(Rounding rounding) {
  switch (rounding) {
    case Rounding::kNearest:
      return "NEAREST";
    case Rounding::kStochastic:
      return "STOCHASTIC";
  }
  return "?";
}

}  // namespace shardstep
