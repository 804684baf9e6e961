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
#include "shardstep/comm/buffer.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/levels.h"
#include "shardstep/comm/rendezvous.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/runtime/memory_estimate.h"
#include "shardstep/runtime/optimizer_digests.h"
#include "shardstep/runtime/options.h"
#include "shardstep/runtime/parameter_groups.h"
#include "shardstep/runtime/state_kind.h"
#include "shardstep/runtime/step_arguments.h"
#include "shardstep/runtime/step_counters.h"
#include "shardstep/runtime/step_record.h"
#include "shardstep/runtime/step_trace.h"

namespace shardstep {

class ComputeDevice;  // compute_device.h
struct ShardBuffers;  // shard_buffers.h

/// The optimizer step of a data-parallel trainer: bf16 gradients in, bf16 weights out, fp32 master weights and
/// optimizer state sharded over the ranks.
///
/// Threads: one thread (the caller) makes all calls but Abort, which any thread may make. No call throws. Calls marked
/// collective are made by every rank in the same order; so are EndMicroStep and Step. Errors of work in flight are
/// sticky: the first wins and every later call returns it. If that work had begun to change weights the state is torn,
/// and only Abort and destruction are allowed.
class ShardedOptimizer {
 public:
  /// Collective. Validates, compares a digest of parameters, options and build across ranks (FailedPrecondition names
  /// both ranks and the first field that differs), then allocates. `rendezvous` must outlive the optimizer, and so must
  /// `device`, which the communicators are made for: nullptr: the CPUs of this host; or a GPU (cuda_backend.h).
  static absl::StatusOr<std::unique_ptr<ShardedOptimizer>> Create(const OptimizerOptions& options,
                                                                  std::vector<ParameterSpec> parameters,
                                                                  CommunicatorLevels communicators,
                                                                  Rendezvous* rendezvous,
                                                                  ComputeDevice* device = nullptr);
  /// What Create would allocate on one host, without allocating. The same validation.
  static absl::StatusOr<MemoryEstimate> EstimateMemory(const OptimizerOptions& options,
                                                       std::vector<ParameterSpec> parameters, int world_size);
  /// Inside a step it ends the job as Abort does.
  ~ShardedOptimizer();
  ShardedOptimizer(const ShardedOptimizer&) = delete;
  ShardedOptimizer& operator=(const ShardedOptimizer&) = delete;

  const ShardLayout& layout() const;
  const ParameterGroups& groups() const;
  /// What it holds now: running sums, once made, stay; state of frozen buckets goes, memory of their gradients stays.
  MemoryEstimate memory() const;
  /// What travels between hosts in each mode, to print at the start; empty on one host.
  std::string DescribeWire() const;
  int rank() const;
  int world_size() const;

  /// The weights of parameter p, contiguous, to read after WeightsReady(p) and until the next Step: one of the two by
  /// the parameter's dtype, the other empty, as both are when there is no p. Of a tied parameter its owner's. Memory of
  /// the device: on a GPU not the host's to read.
  absl::Span<const Bf16> weights(int p) const;
  absl::Span<const float> fp32_weights(int p) const;
  /// This rank's gradient of parameter p, to write between GradientWritable(p) and GradientReady(p); likewise. Of tied
  /// parameters, the first that is marked ready in a micro-step was overwritten, the others add.
  absl::Span<Bf16> gradient(int p);
  absl::Span<float> fp32_gradient(int p);

  /// `buffer` of the caller stands in for gradient(p), or takes the weights of p: as many bytes, aligned to the dtype,
  /// to outlive the optimizer or be unbound by an empty one. Between steps; this rank's own business. Copied in
  /// GradientReady(p) and WeightsReady(p), and named in every record. InvalidArgument names what is wrong with it.
  absl::Status BindGradient(int p, BufferView buffer);
  absl::Status BindWeights(int p, BufferView buffer);

  /// Fills elements [begin, begin + values.size()) of parameter p with fp32 master weights.
  using FillMaster = std::function<void(int p, int64_t begin_element, absl::Span<float> values)>;
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
  /// New settings of a group, from the next Step on, also inside a step until then. Every rank makes the same ones:
  /// they are compared when the step is taken, see FinishStep. FailedPrecondition, and nothing has changed, when the
  /// group's rule, master, rounding or having momentum would change, or a step is in flight.
  absl::Status SetGroup(int group, const GroupOptions& options);
  /// Collective, between steps. A new group with these parameters, its index; frozen ones are thawed.
  /// FailedPrecondition names a parameter that was registered with a group of another kind; nothing has changed then.
  absl::StatusOr<int> AddGroup(const GroupOptions& options, absl::Span<const std::string> parameters);
  /// Collective, between steps. A frozen parameter has no gradient and no moments, and its master is its weights. A
  /// thawed one begins with zero moments, and its own count of applied steps. Parameters of one group that were not
  /// frozen at creation share buckets, whose other parameters go on travelling.
  absl::Status SetFrozen(absl::Span<const std::string> parameters, bool frozen);
  /// Enqueues the step and returns. FailedPrecondition, and nothing happened, unless exactly micro_steps micro-steps
  /// have ended and the step before is finished; InvalidArgument, and nothing happened, names a bad argument.
  absl::Status Step(const StepArguments& arguments);
  /// Blocks until the weights of p are those of the last Step.
  absl::Status WeightsReady(int p);
  /// Blocks until this rank's part of the last Step is done; what it did. FailedPrecondition names two ranks that
  /// differ in arguments, counters or settings of groups, and in which: such a step changed nothing and the optimizer
  /// stays usable. So it does after the error of a non-finite step (policy kError, or max_consecutive_skips reached).
  /// Collective with the option parameter_norms.
  absl::StatusOr<StepRecord> FinishStep();

  /// Collective. master = float(values), weights = values, moments and counters kept; by the parameter's weight dtype.
  /// FailedPrecondition, and nothing is written, when ranks differ in the parameter or its values.
  absl::Status SetWeights(absl::string_view parameter, absl::Span<const Bf16> values);
  absl::Status SetWeights(absl::string_view parameter, absl::Span<const float> values);
  /// Collective, between steps, for trainers that keep state themselves; Save and Load keep it sharded. One array of a
  /// parameter, the whole of it on every rank; empty where there is none (of a frozen parameter, or by its rule). A
  /// master that is set also sets the weights, rounded; an array that was read and is set comes back bit by bit.
  /// FailedPrecondition, and nothing is written, when ranks differ in what they set.
  absl::StatusOr<std::vector<float>> ReadState(absl::string_view parameter, StateKind kind);
  absl::Status SetState(absl::string_view parameter, StateKind kind, absl::Span<const float> values);
  /// Of the last finished step. And, by parameter, the applied steps when its state began: 0, or when it was thawed.
  StepCounters counters() const;
  int64_t begin_applied_step(int p) const;
  /// Collective, between steps. `begin_applied_steps`: by parameter; empty: all 0. Errors as SetState.
  absl::Status SetCounters(const StepCounters& counters, absl::Span<const int64_t> begin_applied_steps);
  /// Collective.
  absl::StatusOr<OptimizerDigests> Digests();
  /// Collective, between steps, for what all ranks must succeed in or none, before a collective call say. OK when every
  /// rank passed OK; otherwise all get the error of the lowest rank that failed, which it names. `what`: the same on
  /// all.
  absl::Status Agree(absl::string_view what, const absl::Status& mine);

  /// Collective. Writes a checkpoint of the last finished step under `directory` (docs/checkpoint_format.md) and prunes
  /// old ones. `caller_state` comes back from Load. Refused when torn, while a step is in flight, or when ranks have
  /// other settings of a group.
  absl::Status Save(const std::string& directory, absl::string_view caller_state);
  /// Collective. Restores the newest whole checkpoint under `directory`, of any world size; the caller's blob.
  /// NotFound when there is none, and nothing has changed; DataLoss when all are damaged. A damaged one is named in
  /// `warnings` and the next older one taken.
  absl::StatusOr<std::string> Load(const std::string& directory, std::vector<std::string>* warnings);

  /// CUDA graphs: whole steps, captured once and launched again and again. BeginCapture, between steps, waits until all
  /// that is under way is done. Then the caller begins to capture its compute stream, calls everything from
  /// GradientWritable to Step as ever, with arguments that count for nothing, and EndCapture; it ends the capture and
  /// instantiates the graph. FailedPrecondition while a trace is set or others take part in the decision; Unimplemented
  /// where the device or a communicator cannot be captured. Collective.
  ///
  /// To take a step by a graph: Replay with the step's arguments, launch the graph on the compute stream, FinishStep.
  /// A graph is for one number of micro-steps and stays good until a group is added, something is frozen or thawed, or
  /// the model is initialized or loaded: FailedPrecondition after that. Steps with and without a graph may follow one
  /// another. Destroy graphs before the optimizer: NCCL waits for those that it is in. Collective. After an error of
  /// EndCapture nothing was captured; end the capture all the same.
  absl::Status BeginCapture();
  absl::Status EndCapture();
  absl::Status Replay(const StepArguments& arguments);

  /// Between steps: `trace` hears of every operation from now on, until another one or nullptr takes its place; when
  /// this returns, the one before has heard all. It outlives the optimizer otherwise. This rank's own business.
  void SetTrace(StepTrace* trace);

  /// This rank will be busy elsewhere for at most `duration` (an evaluation): no rank's deadline runs meanwhile.
  void SetAway(absl::Duration duration);
  /// Ends the job: every wait inside a step, on every rank, returns Aborted, naming this rank and `reason`. From any
  /// thread. Meetings between steps end by Rendezvous::Fail.
  void Abort(const absl::Status& reason);

 private:
  friend class JointDecision;
  friend std::vector<ShardBuffers> ShardBuffersOf(const ShardedOptimizer& optimizer);
  class Impl;
  explicit ShardedOptimizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_SHARDED_OPTIMIZER_H_
