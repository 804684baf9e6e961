#ifndef SHARDSTEP_RUNTIME_STEP_LAUNCHER_H_
#define SHARDSTEP_RUNTIME_STEP_LAUNCHER_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "shardstep/comm/communicator.h"
#include "shardstep/comm/levels.h"
#include "shardstep/comm/status.h"
#include "shardstep/comm/stream.h"
#include "shardstep/optimizer/shard_kernels.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/optimizer/shard_state.h"
#include "shardstep/runtime/compute_device.h"
#include "shardstep/runtime/decision.h"
#include "shardstep/runtime/host_contributions.h"
#include "shardstep/runtime/options.h"
#include "shardstep/runtime/other_optimizers.h"
#include "shardstep/runtime/parameter_groups.h"
#include "shardstep/runtime/step_memory.h"
#include "shardstep/runtime/step_plan.h"

namespace shardstep {

/// What a step works with; all owned elsewhere and longer-lived. The seams (communicators, kernels, streams) are real,
/// or recorders in tests.
struct StepResources {
  const OptimizerOptions* options = nullptr;
  const ParameterGroups* groups = nullptr;
  const ShardLayout* layout = nullptr;
  const ShardState* state = nullptr;
  int rank = 0;                     ///< of the job
  Communicator* host = nullptr;     ///< comm/levels.h: all ranks, or those of this host
  Communicator* network = nullptr;  ///< nullptr with one level
  const HostMap* map = nullptr;     ///< without hosts when there is one level
  ShardKernels* kernels = nullptr;
  ComputeDevice* device = nullptr;
  StepMemory* words = nullptr;
  Stream* caller = nullptr;    ///< the trainer's stream: on a CPU its thread
  Stream* exchange = nullptr;  ///< used when the plan says so
  Stream* update = nullptr;
  BufferView gradients;  ///< where the caller writes: the host communicator's arena, or with local sums its own
  BufferView host_sums;  ///< HostSumBytes, where hosts send sums; else empty
};

/// Bytes of the ring in which sums wait for the network.
int64_t HostSumBytes(const ShardLayout& layout, const HostMap& map, const HostContributions& contributions,
                     int landing_buckets);

/// Where a step stands in the life of its communicators, which count from their creation.
struct StepPosition {
  int64_t first_exchange = 0;
  int64_t step = 0;
};

/// Turns one node of the plan into one call of a communicator or a kernel, with its arguments. Decides no order and
/// waits for nothing. Threads: the caller's; what it enqueues runs on the streams.
class StepLauncher {
 public:
  explicit StepLauncher(const StepResources& resources);

  /// Enqueues `node` on `stream`.
  absl::Status Launch(const StepPlan& plan, const StepNode& node, const StepPosition& position, Stream& stream);

  /// What the next decision is made from; before its nodes are launched, between steps. `step` of a StepPosition.
  void SetDecisionInput(const DecisionInput& input, int64_t step);
  /// Of the last step; once its update stream is done. Internal when the streams have decided otherwise than the host
  /// does by the same words.
  absl::StatusOr<Decision> TakeDecision() const;
  /// An update is applied whose weights have not all left this rank, or not all come to it; any thread.
  bool updating() const;
  /// Of the last step's gradients.
  double divisor() const { return EffectiveDivisor(decision_input_.arguments); }
  /// `step` of a StepPosition has ended on this rank; on the stream of its last node. One stream may be late in a step
  /// that another has begun to follow with the next.
  void EndUpdating(int64_t step) {
    // A graph tells the step in which it was captured.
    if (step > ended_step_) ended_step_ = step;
  }
  /// The latest exchange of bucket b among the ranks of the host, or -1.
  int64_t last_exchange(int b) const { return last_exchange_[b]; }
  /// Takes over changes of the groups; between steps, and once before the first.
  absl::Status TakeOverGroups();
  /// Of groups' settings alone; no step is in flight.
  absl::Status TakeOverSettings();
  /// For the kJoin nodes of plans to come; between steps. `others` must outlive the work on the streams.
  void SetOthers(OtherOptimizers* others) { others_ = others; }

 private:
  /// What this rank works on in one bucket. `mine`: its shard. `rail` and `whole`: the shards that its host sends, and
  /// all of them, each counted from the first one's begin.
  struct BucketSegments {
    std::vector<Segment> mine, rail, whole;
    std::vector<Segment> one_by_one;  ///< `mine`, for launches of their own, where parameters have norms
  };

  /// Slices of a bucket's two latest exchanges: made once, because launches that are under way go on reading them. They
  /// have ended before the bucket is exchanged twice more: with local sums an exchange belongs to a step, and a step is
  /// finished before the next one is called; otherwise the one before was released.
  struct SlicesOfExchange {
    int64_t exchange = -1;
    std::vector<Slice> slices;

    /// Whether the slices of `exchange` are yet to be made; then they are empty.
    bool Begin(int64_t number) {
      if (exchange == number) return false;
      exchange = number;
      slices.clear();
      return true;
    }
  };
  using LatestSlices = std::array<SlicesOfExchange, 2>;
  static SlicesOfExchange& Latest(std::vector<LatestSlices>& latest, int b, int64_t exchange) {
    return latest[b][exchange % 2];
  }

  absl::Status LaunchAccumulate(const StepNode& node, int64_t step, Stream& stream);
  absl::Status LaunchExchange(const StepNode& node, int64_t exchange, Stream& stream);
  absl::Status LaunchSumHost(const StepNode& node, const StepPosition& position, int64_t exchange, Stream& stream);
  absl::Status LaunchReduce(const StepPlan& plan, const StepNode& node, int64_t exchange, Stream& stream);
  absl::Status LaunchAwaitReleased(const StepNode& node, int64_t exchange, Stream& stream);
  void LaunchJoin();
  absl::Status LaunchUpdate(const StepPlan& plan, const StepNode& node, const StepPosition& position, Stream& stream);

  absl::Span<const Slice> HostSlices(int b, int64_t exchange);
  absl::Span<const Slice> Contributions(int b, int64_t exchange);
  absl::Span<const Slice> Slices(int b, int64_t exchange);
  /// Where a sum of this host waits for the network, in the latest exchange of bucket b.
  void* HostSum(int b, int contribution) const;
  Communicator& Of(const StepNode& node) const { return node.level == Level::kNetwork ? *r_.network : *r_.host; }
  /// The level that brings the slices which are reduced, and takes the weights.
  Communicator& Outer() const { return r_.network != nullptr ? *r_.network : *r_.host; }

  const StepResources r_;
  const int world_size_;
  const bool local_sums_;
  OtherOptimizers* others_ = nullptr;
  HostContributions contributions_;
  int64_t host_sum_bytes_ = 0;  // of one sum that waits for the network
  std::vector<BucketSegments> segments_;
  std::vector<LatestSlices> slices_, host_slices_, host_sums_;  // by bucket
  std::vector<std::vector<Slice>> own_gradient_;                // by bucket: this rank's, all shards
  std::vector<float*> own_sum_;                                 // by bucket: this rank's local sum, all shards
  std::vector<int64_t> last_exchange_;                          // by bucket
  int64_t network_exchanges_ = 0;                               // with sums, since creation
  std::vector<int64_t> ring_slot_;                              // by bucket: of its latest exchange between hosts

  ScanResult* ExchangeScan(int64_t step) const { return &r_.words->on_device().exchange_scans[step % 2]; }

  DecisionInput decision_input_;
  // Of a joint decision; written by work on the update stream.
  Findings findings_;
  StepFacts facts_;
  std::atomic<int64_t> ended_step_{-1};
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_STEP_LAUNCHER_H_
