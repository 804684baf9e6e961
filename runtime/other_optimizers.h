#ifndef SHARDSTEP_RUNTIME_OTHER_OPTIMIZERS_H_
#define SHARDSTEP_RUNTIME_OTHER_OPTIMIZERS_H_

#include "absl/time/time.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/status.h"
#include "shardstep/runtime/decision.h"

namespace shardstep {

/// Those that decide together with one optimizer, as that one sees them (joint_decision.h). For the sources of
/// runtime/.
class OtherOptimizers {
 public:
  virtual ~OtherOptimizers() = default;
  /// The caller has called Step, and Join will follow.
  virtual void StepCalled() = 0;
  /// Blocks until all ranks of all optimizers have come to this step; what they found together. `own` is this one's
  /// reduction. Once per step, by work on a stream.
  virtual absl::StatusOr<Findings> Join(const DecisionInput& input, const SmallReduction& own) = 0;
  /// Ends every Join, present and future, of all optimizers on all ranks. Idempotent; any thread.
  virtual void Abort(const absl::Status& reason) = 0;
  /// As Communicator::SetAway.
  virtual void SetAway(absl::Duration duration) = 0;
  /// This rank's optimizer is about to go: its streams are asked nothing any more, and whoever waits for it fails.
  virtual void Leave() = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_OTHER_OPTIMIZERS_H_
