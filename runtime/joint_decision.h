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

/// One of several optimizers that decide together.
struct JointMember {
  ShardedOptimizer* optimizer = nullptr;
  /// The same on all ranks of one optimizer, and no other's: "dense of tensor rank 0".
  std::string name;
};

/// Lets several optimizers clip by one norm and skip together, in every step from now on: those of tensor or pipeline
/// parallel ranks, which hold different parameters, and those of experts, whose data-parallel group is another one.
///
/// Each optimizer first adds up over its own ranks, as ever. Then the ranks of all of them add up the optimizers'
/// totals, each once, so the norm is that of all parameters together, with the weights that norm_weight gives them: a
/// parameter that T optimizers hold alike weighs 1/T. A step whose gradients are not finite anywhere is skipped
/// everywhere, and one that any optimizer refuses is refused by all. Every record names the place, with its optimizer
/// and the rank of `rendezvous`, also when it is in another optimizer; of places in several the first by micro-batch
/// (each optimizer numbers its own), then by optimizer, in the order in which ranks present them.
///
/// All must call Step with the same divisor, said or J, and the same max_norm, and have the same counts of Step calls
/// and of consecutive skips: else the step is refused, and both ranks and the field are named. Learning rates and
/// micro-batches are each optimizer's own. A rank with several optimizers calls Step on each of them before it waits
/// for any (FinishStep, WeightsReady, GradientWritable). What is still uncalled when the wait deadline of one that
/// waits has passed is named and ends the job; give `communicator` a longer deadline, or other ranks may report no more
/// than this rank's absence. One optimizer's error or Abort ends the waits of all, on all ranks.
///
/// Collective over all ranks of `rendezvous`, between steps of all members. `communicator` and `rendezvous` are of the
/// same ranks, which are all ranks of all members; each has at least one member, their numbers may differ.
/// `communicator` is new, and lives as long as the last of them. Members may be destroyed in any order; those left then
/// fail in their next step. InvalidArgument names a rank without members, a member without a name, given twice, some of
/// whose ranks are missing, or under one name with different parameters; Unimplemented one
/// that is not on CPUs; FailedPrecondition one that decides with
/// others already, or ranks that differ in max_consecutive_skips or in what non_finite is. After an error nothing has
/// changed, on any rank.
absl::Status JoinDecisions(std::unique_ptr<Communicator> communicator, Rendezvous* rendezvous,
                           const std::vector<JointMember>& members);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_JOINT_DECISION_H_
