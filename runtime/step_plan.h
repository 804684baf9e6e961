#ifndef SHARDSTEP_RUNTIME_STEP_PLAN_H_
#define SHARDSTEP_RUNTIME_STEP_PLAN_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "shardstep/comm/communicator.h"

namespace shardstep {

/// What a node of the plan does. Operations between ranks are those of comm/communicator.h, by the same names.
enum class StepOp {
  kExchange,        ///< this rank's gradients of the bucket go to their owners
  kAwaitSlices,     ///< the slices of this rank's shard are here
  kReduce,          ///< fp32 sum, norm, non-finite places
  kRelease,         ///< the slices are read
  kContribute,      ///< this rank's part of the decision
  kAllReduceSmall,  ///< the parts of all ranks, added exactly
  kDecide,          ///< norm, clip factor, skip, agreement
  kUpdate,          ///< master weights, moments, bf16 weights of the shard
  kPublish,         ///< the shard's weights go to every rank
};

/// The queues that nodes are issued on. kCaller is the trainer's own stream: on a CPU, its thread.
enum class StepStream { kCaller, kExchange, kUpdate };

/// One operation of one step on one rank.
struct StepNode {
  StepOp op = StepOp::kDecide;
  StepStream stream = StepStream::kUpdate;
  int bucket = -1;                 ///< -1 where an operation is about the whole step
  int64_t micro_step = -1;         ///< within the step; -1 from kContribute on
  bool read_slices = false;        ///< kReduce, kUpdate: the micro-step's slices are summed
  bool read_accumulator = false;   ///< kReduce, kUpdate: on top of the accumulator
  bool write_accumulator = false;  ///< kReduce
  bool take_norm = false;          ///< kReduce: the sum is complete
  bool scan = false;               ///< kReduce: look for non-finite places
  bool waits_for_caller = false;   ///< starts after what the caller has put on its stream so far
  std::vector<int> waits;          ///< nodes of this step on other streams that come first, by index
};

/// What a plan depends on besides the backend's traits.
struct StepPlanInput {
  int bucket_count = 0;
  int world_size = 1;
  int64_t micro_steps = 1;
  bool look_for_non_finite = true;  ///< false: no norm either; one pass over the gradients
};

/// One step as a list of nodes in issue order: micro-step by micro-step the nodes of each bucket, in bucket order; then
/// the decision; then per bucket Update and Publish, in the order of the next forward. A pure function, the same on
/// every rank. One rank has no communication nodes.
struct StepPlan {
  StepPlanInput input;
  /// Gradients are summed into the accumulator (4 bytes per owned element); otherwise Update reads the slices again.
  bool uses_accumulator = false;
  /// Kernels read this rank's own gradients where the caller wrote them, so their next writer waits for kernels too.
  bool kernels_read_gradients = true;
  std::vector<StepNode> nodes;
  /// Range boundaries: nodes of (micro_step, bucket) start at starts[micro_step * bucket_count + bucket]; the last
  /// entry is where the decision starts.
  std::vector<int> starts;

  bool communicates() const { return input.world_size > 1; }
  /// The nodes of (micro_step, bucket): [first, last) in `nodes`.
  std::pair<int, int> Range(int64_t micro_step, int bucket) const;
  /// The nodes from kContribute on: [first, last).
  std::pair<int, int> AfterGradients() const;
};

/// Whether a plan uses the accumulator, without building it.
bool UsesAccumulator(const StepPlanInput& input, const CommunicatorTraits& traits);

StepPlan BuildStepPlan(const StepPlanInput& input, const CommunicatorTraits& traits);

/// "Reduce(bucket 3, micro-step 0)".
std::string ToString(const StepNode& node);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_STEP_PLAN_H_
