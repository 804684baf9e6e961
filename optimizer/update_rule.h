#ifndef SHARDSTEP_OPTIMIZER_UPDATE_RULE_H_
#define SHARDSTEP_OPTIMIZER_UPDATE_RULE_H_

#include <cstdint>
#include <variant>

#include "absl/strings/string_view.h"
#include "shardstep/comm/dtype.h"
#include "shardstep/optimizer/adamw.h"
#include "shardstep/optimizer/lion.h"
#include "shardstep/optimizer/sgd.h"

namespace shardstep {

enum class Rule { kAdamW, kSgd, kLion };

/// What stands behind bf16 weights.
enum class Master {
  kFp32,   ///< fp32 master weights: 4 bytes per owned parameter
  kSplit,  ///< the weights are the upper half of them and 16 bits more are kept: 2 bytes, every bit as precise
  kNone,   ///< nothing: weights are updated in fp32 and rounded back, which loses small updates
};

/// How weights without a master are rounded.
enum class Rounding { kNearest, kStochastic };

/// What decides which arrays are kept and which kernel runs: fixed at creation.
struct UpdateKind {
  Rule rule = Rule::kAdamW;
  Master master = Master::kFp32;           ///< of bf16 weights; fp32 weights are their own master
  Rounding rounding = Rounding::kNearest;  ///< of kNone
  bool momentum = true;                    ///< kSgd: a first moment is kept; the others always have one

  bool operator==(const UpdateKind&) const = default;

  bool has_first_moment() const { return rule != Rule::kSgd || momentum; }
  bool has_second_moment() const { return rule == Rule::kAdamW; }
};

/// Bytes per owned parameter of master weights and moments with weights of `weight_dtype`.
int64_t MasterBytes(const UpdateKind& kind, DType weight_dtype);
int64_t MomentBytes(const UpdateKind& kind);

/// One parameter group: its rule's settings, and what stands behind its weights.
struct GroupOptions {
  std::variant<AdamWOptions, SgdOptions, LionOptions> rule;
  Master master = Master::kFp32;
  Rounding rounding = Rounding::kNearest;

  UpdateKind kind() const;
  double learning_rate_factor() const;
};

/// What a kernel multiplies with; the member of the bucket's rule is set.
struct RuleScalars {
  AdamWScalars adamw;
  SgdScalars sgd;
  LionScalars lion;
};

/// `applied_step` t >= 1 counts the applied steps since the parameter's state began, this one included.
RuleScalars MakeRuleScalars(const GroupOptions& group, double learning_rate, int64_t applied_step);

/// Whether all of them are finite in fp32; the first applied step's are the largest.
bool IsFinite(const RuleScalars& scalars, Rule rule);

/// "adamw", "FP32": words of options, checkpoints and messages.
absl::string_view Name(Rule rule);
absl::string_view Name(Master master);
absl::string_view Name(Rounding rounding);

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_UPDATE_RULE_H_
