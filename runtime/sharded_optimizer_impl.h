#ifndef SHARDSTEP_RUNTIME_SHARDED_OPTIMIZER_IMPL_H_
#define SHARDSTEP_RUNTIME_SHARDED_OPTIMIZER_IMPL_H_

/// For the sources of runtime/ only.

#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "shardstep/optimizer/shard_kernels.h"
#include "shardstep/optimizer/shard_state.h"
#include "shardstep/runtime/bound_buffers.h"
#include "shardstep/runtime/checkpoint.h"
#include "shardstep/runtime/compute_device.h"
#include "shardstep/runtime/model_access.h"
#include "shardstep/runtime/other_optimizers.h"
#include "shardstep/runtime/plan_input.h"
#include "shardstep/runtime/sharded_optimizer.h"
#include "shardstep/runtime/state_access.h"
#include "shardstep/runtime/step_memory.h"
#include "shardstep/runtime/step_plan.h"
#include "shardstep/runtime/step_scheduler.h"

namespace shardstep {

// Of meetings between steps, where a rank may come late from an evaluation or another's save. Waits inside a step have
// the options' own deadline.
inline constexpr absl::Duration kMeetingDeadline = absl::Minutes(10);

/// InvalidArgument names the limit.
absl::Status CheckMicroSteps(const ShardLayout& layout, int64_t micro_steps);

/// Owns the parts and joins them; the step itself is in StepScheduler, the model as a whole in ModelAccess. What the
/// calls mean is said in sharded_optimizer.h.
class ShardedOptimizer::Impl {
 public:
  // `device`: nullptr, or outlives this.
  Impl(const OptimizerOptions& options, ShardLayout layout, CommunicatorLevels communicators, Rendezvous* rendezvous,
       ComputeDevice* device);
  ~Impl();
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  Communicator& host() const { return *communicators_.host; }
  Communicator& Outer() const { return communicators_.network ? *communicators_.network : *communicators_.host; }
  LevelTraits traits() const { return TraitsOf(host(), communicators_.network.get()); }

  // ---- Creation ----------------------------------------------------------------------------------------------------
  GradientHandling Handling(int64_t micro_steps) const;
  MemoryEstimate MemoryToAllocate() const;
  // What the levels are asked to make.
  ArenaRequest HostRequest(absl::Span<const BucketExtent> extents) const;
  ArenaRequest NetworkRequest(absl::Span<const BucketExtent> extents) const;
  // What is allocated, as it is now.
  MemoryEstimate Memory() const;
  // That share this host's memory and cores.
  int HostRanks() const;
  // All ranks of a host allocate at the same time, so what they need together must be there.
  absl::Status CheckMemory() const;
  absl::Status Allocate();
  absl::Status CreateStreams();
  // The levels' arenas: gradients among the ranks of a host, weights once for both.
  absl::Status AllocateArenas(bool local_sums);

  // ---- Agreement ---------------------------------------------------------------------------------------------------
  absl::Status Agree(absl::string_view what, const absl::Status& mine);
  absl::Status RequireInitialized(absl::string_view call) const;
  absl::StatusOr<int> FindParameter(absl::string_view name) const;
  absl::StatusOr<std::vector<int>> FindParameters(absl::Span<const std::string> names) const;

  // ---- Changes between steps ---------------------------------------------------------------------------------------
  absl::Status SetMicroSteps(int64_t micro_steps);
  absl::Status PrepareMicroSteps(int64_t micro_steps);
  // `change` works on a copy of the groups, which takes their place once all ranks succeeded and agree.
  absl::Status ChangeGroups(absl::string_view call, const std::string& what,
                            absl::FunctionRef<absl::Status(ParameterGroups&)> change);
  // State for buckets of which something is no longer frozen.
  absl::Status MakeStateFor(const ParameterGroups& changed);
  absl::Status TakeOver(const std::vector<int>& frozen, const std::vector<int>& thawed);
  void DropUnusedState();

  // ---- The model as a whole ----------------------------------------------------------------------------------------
  absl::Status Initialize(const FillMaster& fill);
  // After a meeting, as ranks take different times to fill or load their shards.
  absl::Status FinishModel(absl::string_view call);
  absl::Status SetWeights(absl::string_view parameter, absl::Span<const Bf16> values);
  absl::Status SetWeights(absl::string_view parameter, absl::Span<const float> values);
  template <typename T>
  absl::Status SetTypedWeights(absl::string_view parameter, absl::Span<const T> values, DType dtype);
  absl::Status WriteMaster(absl::string_view call, int p, absl::Span<const float> values);
  absl::StatusOr<OptimizerDigests> Digests();
  // Whether there is such an array of parameter p.
  bool Keeps(int p, StateKind kind) const;
  absl::StatusOr<std::vector<float>> ReadState(absl::string_view parameter, StateKind kind);
  absl::Status SetState(absl::string_view parameter, StateKind kind, absl::Span<const float> values);
  absl::Status SetCounters(const StepCounters& counters, absl::Span<const int64_t> begin_applied_steps);

  // ---- Several optimizers ------------------------------------------------------------------------------------------
  // From the next step on. Between steps, once.
  absl::Status DecideWith(std::unique_ptr<OtherOptimizers> others);
  // The first error of this rank's work in flight; any thread.
  absl::Status WorkStatus() const;
  // Abort, but for the other optimizers.
  void AbortAlone(const absl::Status& reason);

  // ---- Checkpoints -------------------------------------------------------------------------------------------------
  std::vector<CheckpointParameterInfo> ParameterInfos() const;
  absl::Status Save(const std::string& directory, absl::string_view caller_state);
  absl::Status WriteCheckpoint(const std::string& directory, absl::string_view caller_state,
                               const CheckpointPolicy& policy);
  absl::StatusOr<std::string> Load(const std::string& directory, std::vector<std::string>* warnings);

  // ---- The caller's own buffers ------------------------------------------------------------------------------------
  BufferView GradientBuffer(int p) const;
  BufferView WeightBuffer(int p) const;
  absl::Status Bind(BoundBuffers::What what, absl::string_view call, int p, BufferView buffer);
  absl::Status GradientWritable(int p);
  absl::Status GradientReady(int p);
  absl::Status WeightsReady(int p);
  absl::StatusOr<StepRecord> FinishStep();
  void SetAway(absl::Duration duration);
  void Abort(const absl::Status& reason);

  const OptimizerOptions options_;
  const ShardLayout layout_;
  ParameterGroups groups_;
  const std::unique_ptr<ComputeDevice> host_device_;
  ComputeDevice& device_;
  // Streams go before what their work uses goes: they are declared last and destroyed first.
  const CommunicatorLevels communicators_;
  Rendezvous* const rendezvous_;
  StepMemory words_;
  ShardState state_;
  StateAccess state_access_;
  std::unique_ptr<ShardKernels> kernels_;
  std::vector<bool> thawed_;  // by bucket: registered as frozen, and was not so for a while
  Buffer own_gradients_;      // with local sums
  Buffer host_sums_;
  BufferView gradients_;
  std::unique_ptr<BoundBuffers> bound_;
  ModelAccess model_;
  std::unique_ptr<OtherOptimizers> others_;  // nullptr: decides alone
  std::unique_ptr<StepScheduler> scheduler_;
  bool initialized_ = false;
  std::unique_ptr<Stream> caller_, exchange_, update_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_SHARDED_OPTIMIZER_IMPL_H_
