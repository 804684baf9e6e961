#ifndef SHARDSTEP_RUNTIME_SHARDED_OPTIMIZER_H_
#define SHARDSTEP_RUNTIME_SHARDED_OPTIMIZER_H_

/// The header a trainer includes. A training loop reads:
///
///   auto optimizer = ShardedOptimizer::Create(options, parameters, std::move(communicator), rendezvous);
///   optimizer->Initialize(fill);
///   for each step:
///     for each of K micro-steps:
///       forward:  WeightsReady(p) before parameter p is used
///       backward: GradientWritable(p), write gradient(p), GradientReady(p), in any order of p
///       EndMicroStep()
///     Step({.learning_rate = lr, .micro_batches = J, .max_norm = 1.0})
///     FinishStep()   // any time before the next Step, so that it overlaps the next forward

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/comm/bf16.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/rendezvous.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/runtime/decision.h"
#include "shardstep/runtime/model_access.h"
#include "shardstep/runtime/options.h"
#include "shardstep/runtime/step_record.h"

namespace shardstep {

/// Bytes that one rank holds, by purpose. On one host the weights exist once, whatever the number of ranks.
struct MemoryEstimate {
  int64_t weights_shared_bytes = 0;  ///< once per host
  int64_t gradient_bytes = 0;        ///< per rank
  int64_t master_bytes = 0;          ///< per rank
  int64_t state_bytes = 0;           ///< per rank
  int64_t accumulator_bytes = 0;     ///< per rank
  int64_t rank_bytes() const { return gradient_bytes + master_bytes + state_bytes + accumulator_bytes; }
};

/// The optimizer step of a data-parallel trainer: bf16 gradients in, bf16 weights out, fp32 master weights and AdamW
/// state sharded over the ranks.
///
/// Threads: one thread (the caller) makes all calls but Abort, which any thread may make. No call throws. Calls marked
/// collective are made by every rank in the same order; so are EndMicroStep and Step. Errors of work in flight are
/// sticky: the first wins and every later call returns it. If that work had begun to change weights the state is torn,
/// and only Abort and destruction are allowed.
class ShardedOptimizer {
 public:
  /// Collective. Validates, compares a digest of parameters, options and build across ranks (FailedPrecondition names
  /// both ranks and the first field that differs), then allocates. `rendezvous` must outlive the optimizer.
  static absl::StatusOr<std::unique_ptr<ShardedOptimizer>> Create(const OptimizerOptions& options,
                                                                  std::vector<ParameterSpec> parameters,
                                                                  std::unique_ptr<Communicator> communicator,
                                                                  Rendezvous* rendezvous);
  /// What Create would allocate, without allocating. The same validation.
  static absl::StatusOr<MemoryEstimate> EstimateMemory(const OptimizerOptions& options,
                                                       std::vector<ParameterSpec> parameters, int world_size);
  /// Inside a step it ends the job as Abort does.
  ~ShardedOptimizer();
  ShardedOptimizer(const ShardedOptimizer&) = delete;
  ShardedOptimizer& operator=(const ShardedOptimizer&) = delete;

  const ShardLayout& layout() const;
  int rank() const;
  int world_size() const;

  /// The bf16 weights of parameter p (none if there is no p), contiguous, to read after WeightsReady(p) and until the
  /// next Step.
  absl::Span<const Bf16> weights(int p) const;
  /// This rank's bf16 gradient of parameter p (none if there is no p), to write between GradientWritable(p) and
  /// GradientReady(p).
  absl::Span<Bf16> gradient(int p);

  /// Fills elements [begin, begin + values.size()) of parameter p with fp32 master weights.
  using FillMaster = ModelAccess::FillMaster;
  /// Collective. Calls `fill` for the ranges this rank owns, zeroes the moments and the step counters, and sets the
  /// weights to the rounded master. Required before the first step, unless Load or SetWeights for all parameters.
  absl::Status Initialize(const FillMaster& fill);

  /// Blocks until this rank may overwrite the gradient of p. Required once per parameter and micro-step; with
  /// accumulate_gradients the gradient is zero when this returns for the first time in a micro-step.
  absl::Status GradientWritable(int p);
  /// The gradient of p is written. Never blocks; starts the exchange of every bucket that became complete.
  /// FailedPrecondition when marked twice in a micro-step or without GradientWritable.
  absl::Status GradientReady(int p);
  /// Ends a micro-step: gradients that were not marked ready count as zeros (or are an error, by option). Call it
  /// micro_steps times per step on every rank, also on a rank that has no micro-batch left.
  absl::Status EndMicroStep();
  /// Collective. Micro-steps of the steps that follow. FailedPrecondition inside a step, or naming two ranks that
  /// differ; nothing has changed then.
  absl::Status SetMicroSteps(int64_t micro_steps);
  /// Enqueues the step and returns. FailedPrecondition, and nothing happened, unless exactly micro_steps micro-steps
  /// have ended and the step before is finished; InvalidArgument, and nothing happened, names a bad argument.
  absl::Status Step(const StepArguments& arguments);
  /// Blocks until the weights of p are those of the last Step.
  absl::Status WeightsReady(int p);
  /// Blocks until this rank's part of the last Step is done; what it did. FailedPrecondition names the two ranks whose
  /// arguments or counters differed, and the field: such a step changed nothing and the optimizer stays usable. So it
  /// does after the error of a non-finite step (policy kError, or max_consecutive_skips reached).
  absl::StatusOr<StepRecord> FinishStep();

  /// Collective. master = float(values), weights = values, moments and counters kept. FailedPrecondition, and nothing
  /// is written, when ranks differ in the parameter or its values.
  absl::Status SetWeights(absl::string_view parameter, absl::Span<const Bf16> values);
  /// Collective. The whole fp32 master of one parameter, on every rank; memory of that parameter.
  absl::StatusOr<std::vector<float>> ReadMaster(absl::string_view parameter);
  /// Collective.
  absl::StatusOr<OptimizerDigests> Digests();

  /// Collective. Writes a checkpoint of the last finished step under `directory` (docs/checkpoint_format.md) and prunes
  /// old ones. `caller_state` comes back from Load. Refused when torn or while a step is in flight.
  absl::Status Save(const std::string& directory, absl::string_view caller_state);
  /// Collective. Restores the newest whole checkpoint under `directory`, of any world size; the caller's blob.
  /// NotFound when there is none, DataLoss when all are damaged. A damaged one is named in `warnings` and the next
  /// older one taken.
  absl::StatusOr<std::string> Load(const std::string& directory, std::vector<std::string>* warnings);

  int64_t step() const;           ///< calls of Step so far, as restored by Load
  int64_t applied_steps() const;  ///< those that changed the weights

  /// This rank will be busy elsewhere for at most `duration` (an evaluation): no rank's deadline runs meanwhile.
  void SetAway(absl::Duration duration);
  /// Ends the job: every wait inside a step, on every rank, returns Aborted, naming this rank and `reason`. From any
  /// thread. Meetings between steps end by Rendezvous::Fail.
  void Abort(const absl::Status& reason);

 private:
  class Impl;
  explicit ShardedOptimizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_SHARDED_OPTIMIZER_H_
