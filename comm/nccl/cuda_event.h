#ifndef SHARDSTEP_COMM_NCCL_CUDA_EVENT_H_
#define SHARDSTEP_COMM_NCCL_CUDA_EVENT_H_

#include <utility>

#include "shardstep/comm/cuda/cuda_stream.h"

namespace shardstep {

/// A CUDA event that is recorded again and again. It knows no stream, so it may outlive the one that it was recorded
/// on; a ticket of a CudaStream may not. Before its first record it counts as reached.
class CudaEvent {
 public:
  CudaEvent() = default;
  static absl::StatusOr<CudaEvent> Create(const CudaDeviceRef& device) {
    SHARDSTEP_RETURN_IF_ERROR(CudaStatus(*device.api, device.api->SetDevice(device.device), "cudaSetDevice"));
    CudaEvent event;
    event.api_ = device.api;
    const int result = device.api->EventCreate(&event.handle_, /*timing=*/false);
    SHARDSTEP_RETURN_IF_ERROR(CudaStatus(*device.api, result, "cudaEventCreate"));
    return event;
  }
  CudaEvent(CudaEvent&& other) noexcept
      : api_(other.api_), handle_(std::exchange(other.handle_, nullptr)), point_(std::move(other.point_)) {}
  CudaEvent& operator=(CudaEvent&& other) noexcept {
    std::swap(api_, other.api_);
    std::swap(handle_, other.handle_);
    std::swap(point_, other.point_);
    return *this;
  }
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;
  ~CudaEvent() {
    if (handle_ != nullptr) api_->EventDestroy(handle_);
  }

  absl::Status RecordOn(CudaStream& stream) {
    point_ = stream.Mark();
    return stream.Enqueue("cudaEventRecord",
                          [this](CudaStreamHandle handle) { return api_->EventRecord(handle_, handle); });
  }
  /// Later work on `stream` starts after the last record.
  absl::Status MakeWait(CudaStream& stream) const { return stream.WaitFor(handle_, point_); }
  /// As before the first record (CudaStream::Settle).
  void Settle() { point_ = StreamPoint(); }
  absl::StatusOr<bool> IsReached() const {
    const int result = api_->EventQuery(handle_);
    if (result == CudaApi::kNotReady) return false;
    SHARDSTEP_RETURN_IF_ERROR(CudaStatus(*api_, result, "cudaEventQuery"));
    return true;
  }

 private:
  CudaApi* api_ = nullptr;
  CudaEventHandle handle_ = nullptr;
  StreamPoint point_;  ///< of the last record
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_NCCL_CUDA_EVENT_H_
