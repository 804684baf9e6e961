#ifndef SHARDSTEP_RUNTIME_STEP_PLAN_H_
#define SHARDSTEP_RUNTIME_STEP_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "shardstep/comm/communicator.h"

namespace shardstep {

/// What a node of the plan does. Operations between ranks are those of comm/communicator.h, by the same names.
enum class StepOp {
  kExchange,
  kAwaitSlices,
  kReduce,
  kRelease,
  kDecide,
  kUpdate,
  kPublish,
};

/// The queues that nodes are issued on. kCaller is the trainer's own stream: on a CPU, its thread.
enum class StepStream { kCaller, kExchange, kUpdate };

/// Where a reduce takes its sum from and leaves it.
struct ReducePlan {
  bool read_accumulator = false;
  bool write_accumulator = false;
  bool take_norm = false;
  bool scan = false;
};

struct StepNode {
  StepOp op = StepOp::kDecide;
  StepStream stream = StepStream::kUpdate;
  int bucket = -1;                ///< -1: kDecide
  int64_t micro_step = -1;        ///< within the step; -1: after the last one
  ReducePlan reduce;              ///< kReduce
  bool read_slices = false;       ///< kUpdate
  bool read_accumulator = false;  ///< kUpdate
  std::vector<int> waits;         ///< nodes on other streams that must be done before this one starts, by index
};

/// What a plan depends on besides the backend's traits.
struct StepPlanInput {
  int bucket_count = 0;
  int world_size = 1;
  int64_t micro_steps = 1;
  bool look_for_non_finite = true;  ///< false: no norm either; one pass
  bool has_accumulator = false;     ///< always when micro_steps > 1 or slices do not persist
};

/// One step as a list of nodes in issue order: micro-step by micro-step the nodes of each bucket, in bucket order, then
/// Decide, then per bucket Update and Publish, in the order of the next forward. A pure function, equal on every rank.
/// With one rank it has no communication nodes.
struct StepPlan {
  StepPlanInput input;
  std::vector<StepNode> nodes;

  /// The nodes of (micro_step, bucket): [first, last) in `nodes`.
  std::pair<int, int> Range(int64_t micro_step, int bucket) const;
  /// The nodes from Decide on: [first, last).
  std::pair<int, int> AfterGradients() const;
};

StepPlan BuildStepPlan(const StepPlanInput& input, const CommunicatorTraits& traits);

/// Whether rereading slices (4 bytes per slice in all) costs more than keeping their sum (2 per slice and 8): the
/// cost contract's min(4N, 2N + 8).
bool PrefersAccumulator(int world_size, int64_t micro_steps, bool look_for_non_finite,
                        const CommunicatorTraits& traits);

std::string ToString(const StepNode& node);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_STEP_PLAN_H_
