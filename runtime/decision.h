#ifndef SHARDSTEP_RUNTIME_DECISION_H_
#define SHARDSTEP_RUNTIME_DECISION_H_

#include <cstdint>
#include <optional>

#include "absl/types/span.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/optimizer/step_words.h"
#include "shardstep/runtime/decision_words.h"
#include "shardstep/runtime/options.h"
#include "shardstep/runtime/parameter_groups.h"
#include "shardstep/runtime/step_arguments.h"
#include "shardstep/runtime/step_counters.h"
#include "shardstep/runtime/step_record.h"

namespace shardstep {

/// InvalidArgument names the first bad argument.
absl::Status ValidateArguments(const StepArguments& arguments, const OptimizerOptions& options,
                               absl::Span<const GroupOptions> groups, int64_t micro_steps, int world_size);

/// The divisor that a step uses; micro_batches filled in.
double EffectiveDivisor(const StepArguments& arguments);

/// What a decision is made from, besides the scan. Equal on every rank but for `misplaced_micro_step`.
struct DecisionInput {
  StepArguments arguments;  ///< validated, micro_batches filled in
  StepCounters counters;    ///< before this step
  int64_t micro_steps = 1;
  SettingsHashes settings{};
  /// The first micro-step in which this rank marked a gradient ready although it had no micro-batch, or -1.
  int64_t misplaced_micro_step = -1;
};

/// What the streams need to know of a step, this rank's part of the decision included, but for its scan.
StepOrder MakeOrder(const DecisionInput& input, const OptimizerOptions& options, int rank, int world_size);

/// What all ranks have told each other, of one optimizer or of several that decide together.
struct Findings {
  /// Ranks that disagree, or gradients where there is no micro-batch, by name. Then nothing is updated.
  absl::Status refused;
  ScanResult scan;
  std::optional<NonFinitePlace> non_finite;  ///< the scan's, with its names
};
/// From the reduction of all contributions of one optimizer.
Findings Find(const SmallReduction& reduction, const ShardLayout& layout);

/// Why ranks of one optimizer cannot take the step together, from the reduction of their contributions.
std::optional<Objection> FindObjection(const SmallReduction& reduction);
/// The same in words: FailedPrecondition naming ranks and field.
absl::Status Refusal(const Objection& objection);

/// The outcome, the same bits on every rank.
struct Decision {
  /// Why the step ends with an error although nothing is broken: ranks disagree, or the policy makes a non-finite step
  /// one. Nothing is updated then.
  absl::Status refused;
  bool apply = false;
  float scale = 0;
  StepCounters counters;  ///< after this step
  StepRecord record;      ///< without times
};

/// Numeric contract 2, 3 and the skip rules, by the formula that the streams have decided by.
Decision Decide(const DecisionInput& input, const Findings& findings, const OptimizerOptions& options);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_DECISION_H_
