#include "shardstep/comm/nccl/operation_queue.h"

#include <utility>

namespace shardstep {

std::string NcclOperation::Name() const {
  switch (kind) {
    case kExchange:
      return absl::StrCat("AwaitSlices of bucket ", bucket, ", micro-step ", number);
    case kPublish:
      return absl::StrCat("AwaitPublished of bucket ", bucket, ", step ", number);
    case kAllReduceSmall:
      return absl::StrCat("AllReduceSmall number ", number);
  }
  return "?";
}

absl::StatusOr<CudaEvent> OperationQueue::TakeEvent() {
  if (free_events_.empty()) return CudaEvent::Create(device_);
  CudaEvent event = std::move(free_events_.back());
  free_events_.pop_back();
  return event;
}

absl::Status OperationQueue::Begin(const NcclOperation& operation, CudaStream& stream) {
  const MutexLock lock(&mutex_);
  Entry entry{.operation = operation};
  SHARDSTEP_ASSIGN_OR_RETURN(entry.begin, TakeEvent());
  SHARDSTEP_ASSIGN_OR_RETURN(entry.end, TakeEvent());
  SHARDSTEP_RETURN_IF_ERROR(entry.begin.RecordOn(stream));
  entries_.push_back(std::move(entry));
  return absl::OkStatus();
}

absl::Status OperationQueue::End(CudaStream& stream) {
  const MutexLock lock(&mutex_);
  Entry& entry = entries_.back();
  SHARDSTEP_RETURN_IF_ERROR(entry.end.RecordOn(stream));
  entry.ended = true;
  return absl::OkStatus();
}

absl::StatusOr<OperationQueue::Progress> OperationQueue::Look() {
  const MutexLock lock(&mutex_);
  const int64_t issued = finished_ + static_cast<int64_t>(entries_.size());
  while (arrived_ < issued) {
    const Entry& entry = entries_[static_cast<size_t>(arrived_ - finished_)];
    SHARDSTEP_ASSIGN_OR_RETURN(const bool reached, entry.begin.IsReached());
    if (!reached) break;
    ++arrived_;
  }
  while (finished_ < arrived_ && entries_.front().ended) {
    Entry& entry = entries_.front();
    SHARDSTEP_ASSIGN_OR_RETURN(const bool reached, entry.end.IsReached());
    if (!reached) break;
    free_events_.push_back(std::move(entry.begin));
    free_events_.push_back(std::move(entry.end));
    entries_.pop_front();
    ++finished_;
  }
  Progress progress{.issued = issued, .arrived = arrived_, .finished = finished_};
  if (finished_ < arrived_) progress.waiting = entries_.front().operation;
  return progress;
}

}  // namespace shardstep
