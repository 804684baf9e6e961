#ifndef SHARDSTEP_RUNTIME_DECISION_H_
#define SHARDSTEP_RUNTIME_DECISION_H_

#include <cstdint>
#include <optional>

#include "absl/types/span.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/shard_kernels.h"
#include "shardstep/runtime/options.h"
#include "shardstep/runtime/step_record.h"

namespace shardstep {

/// The arguments of one step; equal on every rank, which the decision verifies.
struct StepArguments {
  double learning_rate = 0;        ///< finite, >= 0
  int64_t micro_batches = 0;       ///< J; 0: micro_steps * world size. Numbered micro_step * world_size + rank
  std::optional<double> divisor;   ///< finite, > 0; default J
  std::optional<double> max_norm;  ///< finite, > 0; unset: no clipping
};

/// InvalidArgument names the first bad argument.
absl::Status ValidateArguments(const StepArguments& arguments, const OptimizerOptions& options,
                               absl::Span<const GroupOptions> groups, int64_t micro_steps, int world_size);

/// Counts of steps, changed by decisions only.
struct StepCounters {
  int64_t step = 0;               ///< calls of Step
  int64_t applied_steps = 0;      ///< those that changed the weights
  int64_t skipped_steps = 0;      ///< those skipped because something was not finite
  int64_t consecutive_skips = 0;  ///< of them, the latest in a row
};

/// What a decision is made from, besides the scan. Equal on every rank but for `misplaced_micro_step`.
struct DecisionInput {
  StepArguments arguments;  ///< validated, micro_batches filled in
  StepCounters counters;    ///< before this step
  int64_t micro_steps = 1;
  /// The first micro-step in which this rank marked a gradient ready although it had no micro-batch, or -1.
  int64_t misplaced_micro_step = -1;
};

/// This rank's part of a decision, for one AllReduceSmall.
SmallReduction Contribute(const DecisionInput& input, const ScanResult& scan, int rank);

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

/// Decides from the reduction of all contributions. Numeric contract 2, 3 and the skip rules.
Decision Decide(const DecisionInput& input, const SmallReduction& reduction, const OptimizerOptions& options,
                const ShardLayout& layout);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_DECISION_H_
