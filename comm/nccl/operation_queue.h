#ifndef SHARDSTEP_COMM_NCCL_OPERATION_QUEUE_H_
#define SHARDSTEP_COMM_NCCL_OPERATION_QUEUE_H_

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/comm/mutex.h"
#include "shardstep/comm/nccl/cuda_event.h"

namespace shardstep {

/// An operation of NCCL, and what messages call it: by what waits for it.
struct NcclOperation {
  enum Kind { kExchange, kPublish, kAllReduceSmall };
  Kind kind = kExchange;
  int bucket = 0;
  int64_t number = 0;  ///< micro-step, step, or of the reduction

  std::string Name() const;
};

/// The operations of one communicator on its stream, in the order of their issue: which the stream has come to, and
/// which it has passed. Known from events around each of them, which are used again once it has passed. Threads: Begin
/// and End from one at a time, Look from any.
class OperationQueue {
 public:
  explicit OperationQueue(const CudaDeviceRef& device) : device_(device) {}
  OperationQueue(const OperationQueue&) = delete;
  OperationQueue& operator=(const OperationQueue&) = delete;

  /// Around what enqueues one operation on `stream`. After an error of Begin no End.
  absl::Status Begin(const NcclOperation& operation, CudaStream& stream);
  absl::Status End(CudaStream& stream);

  struct Progress {
    int64_t issued = 0;
    int64_t arrived = 0;   ///< the stream has come to operations below this one
    int64_t finished = 0;  ///< and passed those below this one
    /// The operation `finished`, when the stream has come to it: what it is waiting in.
    std::optional<NcclOperation> waiting;
  };
  /// Asks the events. An error is the device's.
  absl::StatusOr<Progress> Look();

 private:
  struct Entry {
    NcclOperation operation;
    CudaEvent begin;
    CudaEvent end;
    bool ended = false;  ///< `end` is recorded
  };

  absl::StatusOr<CudaEvent> TakeEvent() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const CudaDeviceRef device_;
  Mutex mutex_;
  std::deque<Entry> entries_ ABSL_GUARDED_BY(mutex_);  ///< from operation `finished_` on
  int64_t arrived_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t finished_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<CudaEvent> free_events_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_NCCL_OPERATION_QUEUE_H_
