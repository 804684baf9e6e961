#ifndef SHARDSTEP_TOOLS_TRAIN_TRAIN_LISTENER_H_
#define SHARDSTEP_TOOLS_TRAIN_TRAIN_LISTENER_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "shardstep/comm/status.h"
#include "shardstep/runtime/sharded_optimizer.h"

namespace shardstep {

/// A step that is finished. Times are rank 0's.
struct TrainedStep {
  StepRecord record;
  double bits_per_byte = 0;  ///< mean over the step's micro-batches, before the update
  double tokens_per_second = 0;
  double forward_ms = 0;
  double backward_ms = 0;
};

/// What becomes of a training run's outcome. Rank 0's trainer has one and calls it, on its thread, in the order of what
/// happens; an error ends the job.
class TrainListener {
 public:
  virtual ~TrainListener() = default;

  /// Before anything else: opens what it writes to.
  virtual absl::Status Open() { return absl::OkStatus(); }
  /// The weights are there; the first step is number `after_step` + 1.
  virtual absl::Status Begin(int64_t /*after_step*/) { return absl::OkStatus(); }
  virtual absl::Status Step(const TrainedStep& step) = 0;
  /// After step number `step`.
  virtual absl::Status HeldOut(int64_t step, double bits_per_byte) = 0;
  /// News for people; no end of line at its end.
  virtual void Tell(absl::string_view /*line*/) {}
  /// Step number `step` was the last one.
  virtual absl::Status End(int64_t /*step*/, const OptimizerDigests& /*digests*/) { return absl::OkStatus(); }
};

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_TRAIN_TRAIN_LISTENER_H_
