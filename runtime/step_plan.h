#ifndef SHARDSTEP_RUNTIME_STEP_PLAN_H_
#define SHARDSTEP_RUNTIME_STEP_PLAN_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "shardstep/comm/communicator.h"

namespace shardstep {

/// What a node of the plan does. Operations between ranks are those of comm/communicator.h, by the same names, on the
/// node's level.
enum class StepOp {
  kAccumulate,      ///< LOCAL accumulation: this rank's gradients are added to its own fp32 sums
  kExchange,        ///< this rank's gradients, or its host's contributions, go to their owners
  kAwaitSlices,     ///< the slices of this rank's shard are here
  kSumHost,         ///< this host's gradients become sums, which travel instead of them
  kReduce,          ///< fp32 sum, norm, non-finite places
  kRelease,         ///< the slices are read
  kAwaitReleased,   ///< what was sent may be overwritten
  kContribute,      ///< this rank's part of the decision
  kAllReduceSmall,  ///< the parts of all ranks, added exactly
  kJoin,            ///< what the other optimizers of a joint decision have found
  kDecide,          ///< norm, clip factor, skip, agreement
  kUpdate,          ///< master weights, moments, weights of the shard
  kPublish,         ///< the shard's weights go to every rank
  kAwaitPublished,  ///< the other hosts' shards are here
};

/// "Exchange".
const char* ToString(StepOp op);

/// The queues that nodes are issued on. kCaller is the trainer's own stream: on a CPU, its thread.
enum class StepStream { kCaller, kExchange, kUpdate };

/// Which of a job's communicators (comm/levels.h). With one level all ranks are its "host".
enum class Level { kHost, kNetwork };

/// One operation of one step on one rank.
struct StepNode {
  StepOp op = StepOp::kDecide;
  StepStream stream = StepStream::kUpdate;
  Level level = Level::kHost;
  int bucket = -1;                 ///< -1 where an operation is about the whole step
  int64_t micro_step = -1;         ///< within the step; -1 from kContribute on
  bool read_slices = false;        ///< kReduce, kUpdate: the micro-step's slices are summed
  bool read_accumulator = false;   ///< kReduce, kUpdate, kAccumulate: on top of the accumulator (own sums)
  bool write_accumulator = false;  ///< kReduce
  bool read_group = false;   ///< kReduce, kUpdate: a group of micro-batches goes on that an earlier micro-step began
  bool write_group = false;  ///< kReduce: one goes on in the next micro-step
  bool take_norm = false;    ///< kReduce: the sum is complete
  bool scan = false;         ///< kReduce, kSumHost, kAccumulate: look for non-finite places
  bool waits_for_caller = false;  ///< starts after what the caller has put on its stream so far
  std::vector<int> waits;         ///< nodes of this step on other streams that come first, by index
};

/// What a plan depends on besides the backends' traits.
struct StepPlanInput {
  std::vector<bool> active;  ///< by bucket: something in it is not frozen
  int world_size = 1;
  int64_t micro_steps = 1;
  bool look_for_non_finite = true;  ///< false: no norm either; one pass over the gradients
  int64_t sum_group = 1;
  bool local_accumulation = false;
  bool sums_on_host = false;  ///< with two levels: sums travel between hosts, not the gradients
  bool joins = false;         ///< other optimizers take part in the decision

  int bucket_count() const { return static_cast<int>(active.size()); }
};

/// The backends of a job's levels.
struct LevelTraits {
  CommunicatorTraits host;
  std::optional<CommunicatorTraits> network;  ///< with two levels
};

/// What a plan does with gradients, decided before any node is made.
struct GradientHandling {
  /// Gradients are summed into the accumulator (4 bytes per owned element); otherwise Update reads the slices again.
  bool accumulator = false;
  /// Groups of micro-batches that span micro-steps need a second one.
  bool group_accumulator = false;
  /// The caller's gradients are this rank's alone, and fp32 sums of them are exchanged, once per step.
  bool local_sums = false;
};
GradientHandling HandleGradients(const StepPlanInput& input, const LevelTraits& traits);

/// One step as a list of nodes in issue order: micro-step by micro-step the nodes of each bucket, in bucket order; then
/// the decision; then per bucket Update and Publish, in the order of the next forward. A pure function, the same on
/// every rank. One rank has no communication nodes; a frozen bucket has none at all.
struct StepPlan {
  StepPlanInput input;
  GradientHandling gradients;
  bool two_levels = false;
  std::vector<StepNode> nodes;
  /// Range boundaries: nodes of (micro_step, bucket) start at starts[micro_step * bucket_count + bucket]; the last
  /// entry is where the decision starts.
  std::vector<int> starts;

  bool communicates() const { return input.world_size > 1; }
  /// Exchanges of one bucket in one step: one per micro-step, or one at all.
  int64_t exchanges() const { return gradients.local_sums ? 1 : input.micro_steps; }
  /// The nodes of (micro_step, bucket): [first, last) in `nodes`.
  std::pair<int, int> Range(int64_t micro_step, int bucket) const;
  /// The nodes from kContribute on: [first, last).
  std::pair<int, int> AfterGradients() const;
};

StepPlan BuildStepPlan(const StepPlanInput& input, const LevelTraits& traits);

/// "Reduce(bucket 3, micro-step 0)".
std::string ToString(const StepNode& node);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_STEP_PLAN_H_
