#ifndef SHARDSTEP_OPTIMIZER_STEP_WORDS_H_
#define SHARDSTEP_OPTIMIZER_STEP_WORDS_H_

#include <cstdint>
#include <limits>

#include "shardstep/comm/host_device.h"
#include "shardstep/comm/small_reduction.h"
#include "shardstep/optimizer/exact_sum.h"
#include "shardstep/optimizer/update_rule.h"

/// The few words that a decision is made of and from, plain so that they can lie in any memory: from the scan of
/// gradients to what Update reads.

namespace shardstep {

/// Where something non-finite was seen, ordered by (micro-batch, parameter, element): the micro-batch in the upper 24
/// bits, the global element (ShardLayout::global_begin_element) in the lower 40. So a minimum over ranks finds the
/// first.
using GradientPlace = uint64_t;
/// Micro-batches of one step that a place can tell apart.
inline constexpr int64_t kMaxMicroBatches = (int64_t{1} << 24) - 1;
inline constexpr GradientPlace kNowhere = std::numeric_limits<uint64_t>::max();
SHARDSTEP_HOST_DEVICE inline constexpr GradientPlace MakePlace(int64_t micro_batch, int64_t global_element) {
  return static_cast<uint64_t>(micro_batch) << 40 | static_cast<uint64_t>(global_element);
}

/// What the reduce pass learns about a rank's gradients in one step, over all its buckets and micro-steps.
struct ScanResult {
  ExactSum squared_norm;                     ///< of the unscaled sums, block by block
  uint32_t max_abs_bits = 0;                 ///< largest |sum| as fp32 bits; 0x7f800000 when one is not finite
  GradientPlace first_nonfinite = kNowhere;  ///< smallest place of an inf or NaN in a slice
  GradientPlace first_overflow = kNowhere;   ///< smallest place where finite slices summed up to inf

  /// Order-free: the bits do not depend on how the work was shared.
  SHARDSTEP_HOST_DEVICE void Merge(const ScanResult& other) {
    squared_norm.Merge(other.squared_norm);
    if (other.max_abs_bits > max_abs_bits) max_abs_bits = other.max_abs_bits;
    if (other.first_nonfinite < first_nonfinite) first_nonfinite = other.first_nonfinite;
    if (other.first_overflow < first_overflow) first_overflow = other.first_overflow;
  }
};

/// What Decide decided, read by Update through a pointer, so a skipped step changes no schedule.
struct UpdateScalars {
  bool apply = false;
  float scale = 0;           ///< g = s * scale
  uint64_t seed = 0;         ///< of stochastic rounding
  int64_t applied_step = 0;  ///< this one included
};

/// What the caller asks of one step, equal on every rank. Written by the host before the step's Contribute.
struct StepOrder {
  SmallReduction part;  ///< this rank's contribution but for its scan
  int64_t step = 0;     ///< of StepPosition
  int64_t world_size = 1;
  int32_t agreed_fields = 0;  ///< of `part`
  bool look_for_non_finite = true;
  double learning_rate = 0;
  double divisor = 1;
  double max_norm = 0;        ///< 0: off
  int64_t applied_steps = 0;  ///< before this step
  uint64_t rounding_seed = 0;
};

/// What a verdict depends on besides the order, from whoever took part.
struct StepFacts {
  bool refused = false;     ///< ranks disagree, or have not all come
  bool non_finite = false;  ///< somewhere in a gradient or a sum of finite ones
  uint32_t max_abs_bits = 0;
  ExactSum squared_norm;
};

/// What the host learns of a step: what the verdict was made from, and the verdict.
struct StepReport {
  SmallReduction reduction;
  UpdateScalars scalars;
  /// StepOrder::step of the last decision that said apply; written after everything else. -1: none yet.
  int64_t applied_in_step = -1;
};

/// One (group, begin) of ParameterGroups: what its RuleScalars are made from.
struct RuleSettings {
  Rule rule = Rule::kAdamW;
  AdamWOptions adamw;
  SgdOptions sgd;
  LionOptions lion;
  int64_t begin_applied_step = 0;
};

/// Contribute: reduction = order.part and all scans, which are reset. Scans of single parameters are optional: their
/// norms go to `parameter_norms`.
struct ContributeWords {
  const StepOrder* order = nullptr;  ///< pinned
  ScanResult* scan = nullptr;
  ScanResult* exchange_scan = nullptr;
  SmallReduction* reduction = nullptr;
  ScanResult* parameter_scans = nullptr;  ///< parameter_count
  ExactSum* parameter_norms = nullptr;    ///< pinned; parameter_count
  int32_t parameter_count = 0;
};

/// Decide: the verdict of decision_formula.h, from the facts that are there or those of the reduction.
struct DecideWords {
  const StepOrder* order = nullptr;  ///< pinned
  const SmallReduction* reduction = nullptr;
  const StepFacts* facts = nullptr;        ///< nullptr: those of `reduction`
  const RuleSettings* settings = nullptr;  ///< pinned; settings_count
  int32_t settings_count = 0;
  UpdateScalars* scalars = nullptr;
  RuleScalars* rules = nullptr;  ///< settings_count; as they were when nothing is applied
  StepReport* report = nullptr;  ///< pinned
};

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_STEP_WORDS_H_
