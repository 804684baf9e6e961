#ifndef SHARDSTEP_RUNTIME_JOINT_DECISION_H_
#define SHARDSTEP_RUNTIME_JOINT_DECISION_H_

#include <memory>
#include <string>
#include <vector>

#include "shardstep/comm/communicator.h"
#include "shardstep/comm/rendezvous.h"
#include "shardstep/comm/status.h"
#include "shardstep/runtime/sharded_optimizer.h"

namespace shardstep {

/// Several optimizers that clip by one norm and skip together: those of tensor or pipeline parallel ranks, which hold
/// different parameters, and those of experts, whose data-parallel group is another one.
///
/// Each optimizer first adds up over its own ranks, as ever. Then the ranks of all of them add up the optimizers'
/// totals, each once, so the norm is that of all parameters together, with the weights that norm_weight gives them: a
/// parameter that T optimizers hold alike weighs 1/T. A step whose gradients are not finite anywhere is skipped
/// everywhere; every record names the place, with the rank of `rendezvous`, also when it is in another optimizer. All
/// must call Step with the same divisor and max_norm, and the same number of times; learning rates and micro-batches
/// are each optimizer's own.
///
/// A rank with several optimizers calls Step on each of them before FinishStep on any. What is left uncalled when the
/// optimizers' wait deadline has passed is named.
class JointDecision {
 public:
  struct Member {
    ShardedOptimizer* optimizer = nullptr;
    /// The same on all ranks of one optimizer, and no other's: "dense of tensor rank 0".
    std::string name;
  };

  /// Collective over all ranks of `rendezvous`, before the first step of any member. `communicator` and `rendezvous`
  /// are of the same ranks, wider than any member's: every member's ranks are among them. The optimizers must outlive
  /// nothing: this object outlives their last step, and `rendezvous` outlives Create. InvalidArgument names a member
  /// without a name, given twice, or under one name with different parameters; FailedPrecondition one that has made
  /// steps already, or ranks that differ in max_consecutive_skips or in what non_finite is.
  static absl::StatusOr<std::unique_ptr<JointDecision>> Create(std::unique_ptr<Communicator> communicator,
                                                               Rendezvous* rendezvous, std::vector<Member> members);
  ~JointDecision();
  JointDecision(const JointDecision&) = delete;
  JointDecision& operator=(const JointDecision&) = delete;

 private:
  class Impl;
  explicit JointDecision(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_JOINT_DECISION_H_
