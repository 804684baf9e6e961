#include "shardstep/runtime/decision.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"

namespace shardstep {
namespace {

constexpr int kAgreedFields = 8 + kComparedGroups;
static_assert(kAgreedFields <= kMaxAgreedFields);

std::array<AgreedField, kAgreedFields> AgreedFields(const DecisionInput& input) {
  const StepArguments& a = input.arguments;
  // An unset optional differs from every value that is valid.
  return {{{"number of Step calls", static_cast<uint64_t>(input.counters.step)},
           {"micro_steps", static_cast<uint64_t>(input.micro_steps)},
           {"micro_batches", static_cast<uint64_t>(a.micro_batches)},
           {"learning_rate", std::bit_cast<uint64_t>(a.learning_rate)},
           {"divisor", std::bit_cast<uint64_t>(a.divisor.value_or(0))},
           {"max_norm", std::bit_cast<uint64_t>(a.max_norm.value_or(0))},
           {"applied steps", static_cast<uint64_t>(input.counters.applied_steps)},
           {"consecutive skips", static_cast<uint64_t>(input.counters.consecutive_skips)},
           {"settings of group[0]", input.settings[0]},
           {"settings of group[1]", input.settings[1]},
           {"settings of group[2]", input.settings[2]},
           {"settings of group[3]", input.settings[3]},
           {"settings of group[4]", input.settings[4]},
           {"settings of group[5]", input.settings[5]},
           {"settings of group[6]", input.settings[6]},
           {"settings of group[7] or a later one", input.settings[7]}}};
}

// What every rank gives alike.
StepOrder OrderWithoutPart(const DecisionInput& input, const OptimizerOptions& options) {
  return {.agreed_fields = kAgreedFields,
          .look_for_non_finite = options.non_finite != NonFinitePolicy::kIgnore,
          .learning_rate = input.arguments.learning_rate,
          .divisor = EffectiveDivisor(input.arguments),
          .max_norm = input.arguments.max_norm.value_or(0),
          .applied_steps = input.counters.applied_steps,
          .rounding_seed = options.rounding_seed};
}

// Fills the record's norm, clip factor and non-finite place; returns whether the step is fit to be applied.
bool Judge(const DecisionInput& input, const Findings& findings, const OptimizerOptions& options, Decision* decision) {
  const StepOrder order = OrderWithoutPart(input, options);
  const Verdict verdict = Judge(order, FactsOf(findings.scan, /*refused=*/false));
  decision->scale = verdict.scale;
  StepRecord& record = decision->record;
  if (!order.look_for_non_finite) return verdict.apply;
  record.non_finite = findings.non_finite;
  if (record.non_finite) return false;
  record.gradient_norm = verdict.norm;
  record.clip_factor = verdict.clip_factor;
  record.scale_overflow = verdict.scale_overflow;
  return verdict.apply;
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

double EffectiveDivisor(const StepArguments& arguments) {
  return arguments.divisor.value_or(static_cast<double>(arguments.micro_batches));
}

StepOrder MakeOrder(const DecisionInput& input, const OptimizerOptions& options, int rank, int world_size) {
  StepOrder order = OrderWithoutPart(input, options);
  order.world_size = world_size;
  order.part = NeutralPart();
  if (input.misplaced_micro_step >= 0) {
    PutObjection({.what = Objection::kMisplaced, .first = rank, .other = input.misplaced_micro_step}, &order.part);
  }
  PutAgreed(AgreedFields(input), rank, &order.part);
  return order;
}

std::optional<Objection> FindObjection(const SmallReduction& reduction) {
  const std::optional<Objection> difference = FindDifference(kAgreedFields, reduction);
  return difference ? difference : TakeObjection(reduction);
}

absl::Status Refusal(const Objection& objection) {
  if (objection.what == Objection::kMisplaced) {
    return absl::FailedPreconditionError(absl::StrCat("rank ", objection.first,
                                                      " marked gradients ready in micro-step ", objection.other,
                                                      ", where it has no micro-batch; nothing was updated"));
  }
  return absl::FailedPreconditionError(absl::StrCat("ranks ", objection.first, " and ", objection.other,
                                                    " called Step with different ",
                                                    AgreedFields({})[objection.what].name, "; nothing was updated"));
}

Findings Find(const SmallReduction& reduction, const ShardLayout& layout) {
  Findings findings;
  findings.scan = TakeScan(reduction);
  const int64_t arrivals = reduction.sums[SmallReduction::kArrivals];
  if (arrivals != layout.world_size()) {
    findings.refused = absl::InternalError(
        absl::StrCat("the decision has the words of ", arrivals, " of ", layout.world_size(), " ranks"));
  } else if (const std::optional<Objection> objection = FindObjection(reduction)) {
    findings.refused = Refusal(*objection);
  }
  if (const std::optional<FoundPlace> place = FirstPlace(findings.scan)) {
    const auto [parameter, element] = layout.Locate(place->global_element);
    findings.non_finite = {.micro_batch = place->micro_batch,
                           .rank = static_cast<int>(place->micro_batch % layout.world_size()),
                           .parameter = layout.parameter(parameter).name,
                           .element = element,
                           .sum_overflow = place->sum_overflow};
  }
  return findings;
}

Decision Decide(const DecisionInput& input, const Findings& findings, const OptimizerOptions& options) {
  Decision decision;
  decision.counters = input.counters;
  ++decision.counters.step;
  decision.refused = findings.refused;
  if (decision.refused.ok()) {
    decision.apply = Judge(input, findings, options, &decision);
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
