#include "shardstep/runtime/decision.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "shardstep/optimizer/exact_sum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace shardstep {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Words of SmallReduction::minima. A field that ranks must agree on takes two: the smallest and the largest value.
enum MinimaWord {
  kFirstNonFinite,
  kFirstOverflow,
  kComplementOfMaxAbs,
  kMisplaced,
  kFields,
};

struct AgreedField {
  const char* name;
  uint64_t value;
};

uint64_t Bits(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

std::array<AgreedField, 8> AgreedFields(const DecisionInput& input) {
  const StepArguments& a = input.arguments;
  // An unset optional differs from every value that is valid.
  return {{{"number of Step calls", static_cast<uint64_t>(input.counters.step)},
           {"micro_steps", static_cast<uint64_t>(input.micro_steps)},
           {"micro_batches", static_cast<uint64_t>(a.micro_batches)},
           {"learning_rate", Bits(a.learning_rate)},
           {"divisor", Bits(a.divisor.value_or(0))},
           {"max_norm", Bits(a.max_norm.value_or(0))},
           {"applied steps", static_cast<uint64_t>(input.counters.applied_steps)},
           {"consecutive skips", static_cast<uint64_t>(input.counters.consecutive_skips)}}};
}
static_assert(kFields + 2 * 8 <= SmallReduction::kMinima);

// 48 bits of a value's hash over the 16 bits of a rank: minima of this word and of its complement name two ranks that
// differ, if any do.
constexpr int kRankBits = 16;
constexpr uint64_t kHashMask = (uint64_t{1} << 48) - 1;
uint64_t HashOf(uint64_t value) { return XXH3_64bits(&value, sizeof(value)) & kHashMask; }
uint64_t Word(uint64_t hash, int rank) { return hash << kRankBits | static_cast<uint64_t>(rank); }

absl::Status CheckAgreement(const DecisionInput& input, const SmallReduction& reduction) {
  int word = kFields;
  for (const AgreedField& field : AgreedFields(input)) {
    const uint64_t low = reduction.minima[word++];
    const uint64_t high = reduction.minima[word++];
    if (low >> kRankBits == (~high >> kRankBits & kHashMask)) continue;
    constexpr uint64_t kRankMask = (1 << kRankBits) - 1;
    return absl::FailedPreconditionError(absl::StrCat("ranks ", low & kRankMask, " and ", high & kRankMask,
                                                      " called Step with different ", field.name,
                                                      "; nothing was updated"));
  }
  return absl::OkStatus();
}

absl::Status CheckPlacement(const DecisionInput& input, const SmallReduction& reduction) {
  const uint64_t misplaced = reduction.minima[kMisplaced];
  if (misplaced == kNowhere) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "rank ", misplaced & 0xffff, " marked gradients ready in micro-step ", misplaced >> kRankBits,
      ", where it has no micro-batch: micro_batches is ", input.arguments.micro_batches, "; nothing was updated"));
}

NonFinitePlace Describe(GradientPlace place, bool sum_overflow, int world_size, const ShardLayout& layout) {
  const int64_t global_element = static_cast<int64_t>(place & ((uint64_t{1} << 40) - 1));
  const auto [parameter, element] = layout.Locate(global_element);
  const int64_t micro_batch = static_cast<int64_t>(place >> 40);
  return {.micro_batch = micro_batch,
          .rank = static_cast<int>(micro_batch % world_size),
          .parameter = layout.parameter(parameter).name,
          .element = element,
          .sum_overflow = sum_overflow};
}

// Fills the record's norm, clip factor and non-finite place; returns whether the step is fit to be applied.
bool Judge(const DecisionInput& input, const SmallReduction& reduction, const OptimizerOptions& options,
           const ShardLayout& layout, Decision* decision) {
  const double divisor = input.arguments.divisor.value_or(static_cast<double>(input.arguments.micro_batches));
  StepRecord& record = decision->record;
  if (options.non_finite == NonFinitePolicy::kIgnore) {
    decision->scale = static_cast<float>(record.clip_factor / divisor);
    return true;
  }
  const uint64_t place = std::min(reduction.minima[kFirstNonFinite], reduction.minima[kFirstOverflow]);
  if (place != kNowhere) {
    const bool overflow = reduction.minima[kFirstNonFinite] == kNowhere;
    record.non_finite =
        Describe(overflow ? place : reduction.minima[kFirstNonFinite], overflow, layout.world_size(), layout);
    return false;
  }
  ExactSum sum;
  std::copy_n(reduction.sums.begin(), ExactSum::kLimbs, sum.limbs().begin());
  const double norm = std::sqrt(sum.Round()) / divisor;
  record.gradient_norm = norm;
  if (input.arguments.max_norm) record.clip_factor = std::min(1.0, *input.arguments.max_norm / (norm + 1e-6));
  decision->scale = static_cast<float>(record.clip_factor / divisor);
  const float max_abs = FloatFromBits(static_cast<uint32_t>(~reduction.minima[kComplementOfMaxAbs]));
  record.scale_overflow = !(max_abs * decision->scale < kInfinity);
  return !record.scale_overflow;
}

void CountSkip(const OptimizerOptions& options, Decision* decision) {
  ++decision->counters.skipped_steps;
  ++decision->counters.consecutive_skips;
  const int64_t in_a_row = decision->counters.consecutive_skips;
  const std::string what = absl::StrCat("step ", decision->counters.step, ": ", WhatWasNotFinite(decision->record));
  if (options.non_finite == NonFinitePolicy::kError) {
    decision->refused = absl::OutOfRangeError(absl::StrCat(what, "; nothing was updated"));
  } else if (in_a_row >= options.max_consecutive_skips) {
    decision->refused = absl::OutOfRangeError(
        absl::StrCat(what, "; ", in_a_row, " steps in a row were skipped (max_consecutive_skips)"));
  }
}

}  // namespace

absl::Status ValidateArguments(const StepArguments& a, const OptimizerOptions& options,
                               absl::Span<const GroupOptions> groups, int64_t micro_steps, int world_size) {
  const auto bad = [](absl::string_view name, auto value, absl::string_view must) {
    return absl::InvalidArgumentError(absl::StrCat("Step: ", name, " = ", value, " must be ", must));
  };
  if (!std::isfinite(a.learning_rate) || a.learning_rate < 0) {
    return bad("learning_rate", a.learning_rate, "finite and not negative");
  }
  for (size_t i = 0; i < groups.size(); ++i) {
    // The first step's are the largest.
    if (!IsFinite(MakeRuleScalars(groups[i], a.learning_rate, 1), groups[i].kind().rule)) {
      return bad("learning_rate", a.learning_rate,
                 absl::StrCat("small enough for fp32 in group[", i, "]: times learning_rate_factor, weight_decay and ",
                              "1 / (1 - beta1)"));
    }
  }
  if (a.micro_batches < 0) return bad("micro_batches", a.micro_batches, "not negative");
  if (a.micro_batches > micro_steps * world_size) {
    return bad("micro_batches", a.micro_batches,
               absl::StrCat("at most micro_steps * world size = ", micro_steps * world_size));
  }
  if (a.divisor &&
      !(*a.divisor > 0 && std::isfinite(*a.divisor) && std::isfinite(static_cast<float>(1 / *a.divisor)))) {
    return bad("divisor", *a.divisor, "finite, positive and its inverse finite in fp32");
  }
  if (!a.max_norm) return absl::OkStatus();
  if (!(*a.max_norm > 0 && std::isfinite(*a.max_norm))) return bad("max_norm", *a.max_norm, "finite and positive");
  if (options.non_finite == NonFinitePolicy::kIgnore) {
    return bad("max_norm", *a.max_norm, "unset while non_finite is IGNORE: without looking there is no norm");
  }
  return absl::OkStatus();
}

SmallReduction Contribute(const DecisionInput& input, const ScanResult& scan, int rank) {
  SmallReduction part;
  ExactSum sum = scan.squared_norm;
  sum.Normalize();
  std::copy(sum.limbs().begin(), sum.limbs().end(), part.sums.begin());
  part.minima.fill(kNowhere);
  part.minima[kFirstNonFinite] = scan.first_nonfinite;
  part.minima[kFirstOverflow] = scan.first_overflow;
  part.minima[kComplementOfMaxAbs] = ~uint64_t{scan.max_abs_bits};
  if (input.misplaced_micro_step >= 0) {
    part.minima[kMisplaced] = Word(static_cast<uint64_t>(input.misplaced_micro_step), rank);
  }
  int word = kFields;
  for (const AgreedField& field : AgreedFields(input)) {
    const uint64_t hash = HashOf(field.value);
    part.minima[word++] = Word(hash, rank);
    part.minima[word++] = Word(~hash & kHashMask, rank);
  }
  return part;
}

Decision Decide(const DecisionInput& input, const SmallReduction& reduction, const OptimizerOptions& options,
                const ShardLayout& layout) {
  Decision decision;
  decision.counters = input.counters;
  ++decision.counters.step;
  decision.refused = CheckAgreement(input, reduction);
  if (decision.refused.ok()) decision.refused = CheckPlacement(input, reduction);
  if (decision.refused.ok()) {
    decision.apply = Judge(input, reduction, options, layout, &decision);
    if (decision.apply) {
      ++decision.counters.applied_steps;
      decision.counters.consecutive_skips = 0;
    } else {
      CountSkip(options, &decision);
    }
  }
  StepRecord& record = decision.record;
  record.step = decision.counters.step;
  record.applied_steps = decision.counters.applied_steps;
  record.applied = decision.apply;
  record.skipped_steps = decision.counters.skipped_steps;
  record.consecutive_skips = decision.counters.consecutive_skips;
  record.micro_steps = input.micro_steps;
  record.micro_batches = input.arguments.micro_batches;
  record.learning_rate = input.arguments.learning_rate;
  return decision;
}

}  // namespace shardstep
