#ifndef SHARDSTEP_COMM_STAGED_STAGED_LANE_H_
#define SHARDSTEP_COMM_STAGED_STAGED_LANE_H_

#include <atomic>
#include <functional>
#include <memory>

#include "absl/types/span.h"
#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/comm/cuda/host_bridge.h"
#include "shardstep/comm/memory.h"
#include "shardstep/comm/staged/staged_failure.h"

namespace shardstep {

/// A copy between host and device, or within one of them.
struct StagedCopy {
  void* to = nullptr;
  const void* from = nullptr;
  int64_t size_bytes = 0;
};

/// Host work in order, each after events of CUDA streams and with an event at its end: a CUDA stream of its own, a
/// bridge, and a second stream for the copies of the work. Nothing of it blocks whoever enqueues.
///
/// Once `failure` has an error no further work is done, and events are reached all the same. Threads: one at a time.
class StagedLane {
 public:
  using Work = std::function<absl::Status(StagedLane& lane)>;

  /// `memory` outlives the lane; `name` is a literal.
  static absl::StatusOr<std::unique_ptr<StagedLane>> Create(const CudaDeviceRef& device, Memory& memory,
                                                            std::shared_ptr<StagedFailure> failure, const char* name);
  /// Waits for the work that is being done; what is enqueued behind it is not done, and is the failure's error.
  ~StagedLane();
  StagedLane(const StagedLane&) = delete;
  StagedLane& operator=(const StagedLane&) = delete;

  /// The event is reached when `work` has been done, after all of `after`. An error of `work` becomes the failure's.
  absl::StatusOr<Event> Enqueue(absl::Span<const Event> after, Work work);
  /// Whether work that was enqueued has not been done.
  bool busy() const { return enqueued_ != done_; }

  /// For work, on its thread: copies, from pinned or any other memory, and waits for them.
  absl::Status Copy(absl::Span<const StagedCopy> copies);

 private:
  StagedLane(const char* name, std::shared_ptr<StagedFailure> failure);

  const char* const name_;
  const std::shared_ptr<StagedFailure> failure_;
  std::atomic<int64_t> enqueued_ = 0;
  std::atomic<int64_t> done_ = 0;
  std::atomic<bool> ending_ = false;
  std::unique_ptr<CudaStream> copies_;
  std::unique_ptr<CudaStream> stream_;
  std::unique_ptr<HostBridge> bridge_;  ///< last: its works use all of the others
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_STAGED_STAGED_LANE_H_
