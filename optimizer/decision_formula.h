#ifndef SHARDSTEP_OPTIMIZER_DECISION_FORMULA_H_
#define SHARDSTEP_OPTIMIZER_DECISION_FORMULA_H_

#include <cmath>
#include <limits>

#include "shardstep/comm/bf16.h"
#include "shardstep/comm/host_device.h"
#include "shardstep/optimizer/rule_scalars.h"
#include "shardstep/optimizer/step_words.h"

/// A step's decision, computed by one thread wherever the step's words lie. For sources of this project only, like
/// rule_scalars.h.

namespace shardstep {

/// Words of SmallReduction::minima. An agreed field takes two: the smallest and the largest value.
enum ReductionWord {
  kFirstNonFinite,
  kFirstOverflow,
  kComplementOfMaxAbs,
  kObjectionWord,
  kAgreedWords,
};
/// The low bits of an agreed field's words name who has the value: minima of a word and of its complement name two
/// that differ, if any do.
inline constexpr int kParticipantBits = 16;
inline constexpr uint64_t kAgreedHashMask = (uint64_t{1} << (64 - kParticipantBits)) - 1;

SHARDSTEP_HOST_DEVICE inline bool FieldDiffers(const SmallReduction& reduction, int field) {
  const uint64_t low = reduction.minima[kAgreedWords + 2 * field] >> kParticipantBits;
  const uint64_t high = ~reduction.minima[kAgreedWords + 2 * field + 1] >> kParticipantBits;
  return low != (high & kAgreedHashMask);
}

SHARDSTEP_HOST_DEVICE inline void PutScan(const ScanResult& scan, SmallReduction* part) {
  ExactSum sum = scan.squared_norm;
  sum.Normalize();
  for (int i = 0; i < ExactSum::kLimbs; ++i) part->sums[i] = sum.limbs()[i];
  part->minima[kFirstNonFinite] = scan.first_nonfinite;
  part->minima[kFirstOverflow] = scan.first_overflow;
  part->minima[kComplementOfMaxAbs] = ~uint64_t{scan.max_abs_bits};
}

/// The scan of all who put one.
SHARDSTEP_HOST_DEVICE inline ScanResult TakeScan(const SmallReduction& reduction) {
  ScanResult scan;
  for (int i = 0; i < ExactSum::kLimbs; ++i) scan.squared_norm.limbs()[i] = reduction.sums[i];
  scan.max_abs_bits = static_cast<uint32_t>(~reduction.minima[kComplementOfMaxAbs]);
  scan.first_nonfinite = reduction.minima[kFirstNonFinite];
  scan.first_overflow = reduction.minima[kFirstOverflow];
  return scan;
}

SHARDSTEP_HOST_DEVICE inline StepFacts FactsOf(const ScanResult& scan, bool refused) {
  return {.refused = refused,
          .non_finite = scan.first_nonfinite != kNowhere || scan.first_overflow != kNowhere,
          .max_abs_bits = scan.max_abs_bits,
          .squared_norm = scan.squared_norm};
}

SHARDSTEP_HOST_DEVICE inline StepFacts FactsOf(const SmallReduction& reduction, const StepOrder& order) {
  // What was cut off half-way is nobody's agreement.
  bool refused =
      reduction.sums[SmallReduction::kArrivals] != order.world_size || reduction.minima[kObjectionWord] != kNowhere;
  for (int i = 0; i < order.agreed_fields; ++i) refused = refused || FieldDiffers(reduction, i);
  return FactsOf(TakeScan(reduction), refused);
}

/// Numeric contract 2, 3 and the skip rules.
struct Verdict {
  bool apply = false;
  bool scale_overflow = false;  ///< finite sums that fp32 cannot hold once scaled
  double norm = 0;              ///< where it was looked at
  double clip_factor = 1;
  float scale = 0;
};

SHARDSTEP_HOST_DEVICE inline Verdict Judge(const StepOrder& order, const StepFacts& facts) {
  Verdict verdict;
  if (facts.refused) return verdict;
  if (order.look_for_non_finite) {
    if (facts.non_finite) return verdict;
    verdict.norm = std::sqrt(facts.squared_norm.Round()) / order.divisor;
    if (order.max_norm > 0) {
      const double clip = order.max_norm / (verdict.norm + 1e-6);
      verdict.clip_factor = clip < 1.0 ? clip : 1.0;
    }
  }
  verdict.scale = static_cast<float>(verdict.clip_factor / order.divisor);
  if (order.look_for_non_finite) {
    verdict.scale_overflow =
        !(FloatFromBits(facts.max_abs_bits) * verdict.scale < std::numeric_limits<float>::infinity());
  }
  verdict.apply = !verdict.scale_overflow;
  return verdict;
}

SHARDSTEP_HOST_DEVICE inline void ContributeScans(const ContributeWords& words) {
  ScanResult scan = *words.scan;
  scan.Merge(*words.exchange_scan);
  for (int32_t p = 0; p < words.parameter_count; ++p) {
    scan.Merge(words.parameter_scans[p]);
    words.parameter_norms[p] = words.parameter_scans[p].squared_norm;
    words.parameter_scans[p] = ScanResult();
  }
  SmallReduction reduction = words.order->part;
  PutScan(scan, &reduction);
  *words.reduction = reduction;
  *words.scan = ScanResult();
  *words.exchange_scan = ScanResult();
}

SHARDSTEP_HOST_DEVICE inline void DecideStep(const DecideWords& words) {
  const StepOrder& order = *words.order;
  const Verdict verdict = Judge(order, words.facts != nullptr ? *words.facts : FactsOf(*words.reduction, order));
  UpdateScalars scalars = {.apply = verdict.apply,
                           .scale = verdict.scale,
                           .seed = order.rounding_seed,
                           .applied_step = order.applied_steps + (verdict.apply ? 1 : 0)};
  *words.scalars = scalars;
  for (int32_t i = 0; verdict.apply && i < words.settings_count; ++i) {
    words.rules[i] = ScalarsOf(words.settings[i], order.learning_rate, scalars.applied_step);
  }
  words.report->reduction = *words.reduction;
  words.report->scalars = scalars;
}

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_DECISION_FORMULA_H_
