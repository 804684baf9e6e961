#include "shardstep/comm/staged/staged_lane.h"

#include <utility>

namespace shardstep {

StagedLane::StagedLane(const char* name, std::shared_ptr<StagedFailure> failure)
    : name_(name), failure_(std::move(failure)) {}

absl::StatusOr<std::unique_ptr<StagedLane>> StagedLane::Create(const CudaDeviceRef& device, Memory& memory,
                                                               std::shared_ptr<StagedFailure> failure,
                                                               const char* name) {
  std::unique_ptr<StagedLane> lane(new StagedLane(name, std::move(failure)));
  SHARDSTEP_ASSIGN_OR_RETURN(lane->copies_, CudaStream::Create(device, name));
  SHARDSTEP_ASSIGN_OR_RETURN(lane->stream_, CudaStream::Create(device, "lane"));
  SHARDSTEP_ASSIGN_OR_RETURN(lane->bridge_, HostBridge::Create(device, memory));
  lane->failure_->Watch(lane->stream_.get());
  return lane;
}

StagedLane::~StagedLane() {
  ending_ = true;
  bridge_.reset();
  if (stream_ != nullptr) failure_->Unwatch(stream_.get());
}

absl::StatusOr<Event> StagedLane::Enqueue(absl::Span<const Event> after, Work work) {
  for (const Event& event : after) stream_->Wait(event);
  ++enqueued_;
  const absl::Status enqueued = bridge_->Enqueue(name_, *stream_, [this, work = std::move(work)] {
    if (ending_) failure_->Set(absl::CancelledError(absl::StrCat(name_, ": the communicator was destroyed")));
    if (failure_->status().ok()) failure_->Set(work(*this));
    ++done_;
    return absl::OkStatus();
  });
  if (!enqueued.ok()) {
    ++done_;
    return enqueued;
  }
  const Event end = stream_->Record();
  SHARDSTEP_RETURN_IF_ERROR(stream_->status());
  return end;
}

absl::Status StagedLane::Copy(absl::Span<const StagedCopy> copies) {
  CudaApi& api = *copies_->device().api;
  for (const StagedCopy& copy : copies) {
    if (copy.size_bytes == 0) continue;
    SHARDSTEP_RETURN_IF_ERROR(copies_->Enqueue("cudaMemcpyAsync", [&](CudaStreamHandle handle) {
      return api.MemcpyAsync(copy.to, copy.from, copy.size_bytes, handle);
    }));
  }
  return copies_->Synchronize(copies_->Record());
}

}  // namespace shardstep
