#include "shardstep/tools/reference/reference_group.h"

#include <variant>

namespace shardstep {
namespace {

shardstep_reference::Group Convert(const AdamWOptions& adamw) {
  return {.beta1 = adamw.beta1, .beta2 = adamw.beta2, .epsilon = adamw.epsilon};
}

shardstep_reference::Group Convert(const SgdOptions& sgd) {
  return {.rule = shardstep_reference::Rule::kSgd, .momentum = sgd.momentum, .nesterov = sgd.nesterov};
}

shardstep_reference::Group Convert(const LionOptions& lion) {
  return {.beta1 = lion.beta1, .beta2 = lion.beta2, .rule = shardstep_reference::Rule::kLion};
}

shardstep_reference::Kept KeptOf(const GroupOptions& options) {
  using shardstep_reference::Kept;
  switch (options.master) {
    case Master::kFp32:
      return Kept::kFp32;
    case Master::kSplit:
      return Kept::kSplit;
    case Master::kNone:
      break;
  }
  return options.rounding == Rounding::kNearest ? Kept::kNearest : Kept::kStochastic;
}

}  // namespace

shardstep_reference::Group ReferenceGroup(const GroupOptions& options) {
  return std::visit(
      [&](const auto& rule) {
        shardstep_reference::Group group = Convert(rule);
        group.weight_decay = rule.weight_decay;
        group.learning_rate_factor = rule.learning_rate_factor;
        group.kept = KeptOf(options);
        return group;
      },
      options.rule);
}

}  // namespace shardstep
