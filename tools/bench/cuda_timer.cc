#include "shardstep/tools/bench/cuda_timer.h"

namespace shardstep {

absl::StatusOr<std::unique_ptr<CudaTimer>> CudaTimer::Create(CudaStream& stream) {
  SHARDSTEP_RETURN_IF_ERROR(MakeCurrent(stream.device()));
  CudaApi& api = *stream.device().api;
  std::unique_ptr<CudaTimer> timer(new CudaTimer(stream));
  for (CudaEventHandle* event : {&timer->begin_, &timer->end_}) {
    SHARDSTEP_RETURN_IF_ERROR(CudaStatus(api, api.EventCreate(event, /*timing=*/true), "cudaEventCreate"));
  }
  return timer;
}

CudaTimer::~CudaTimer() {
  for (const CudaEventHandle event : {begin_, end_}) {
    if (event != nullptr) stream_.device().api->EventDestroy(event);
  }
}

absl::Status CudaTimer::Mark(CudaEventHandle event) {
  return stream_.Enqueue("cudaEventRecord",
                         [&](CudaStreamHandle handle) { return stream_.device().api->EventRecord(event, handle); });
}

absl::Status CudaTimer::Enclose(absl::FunctionRef<absl::Status()> enqueue) {
  SHARDSTEP_RETURN_IF_ERROR(Mark(begin_));
  SHARDSTEP_RETURN_IF_ERROR(enqueue());
  return Mark(end_);
}

absl::StatusOr<double> CudaTimer::Await() {
  CudaApi& api = *stream_.device().api;
  SHARDSTEP_RETURN_IF_ERROR(CudaStatus(api, api.EventSynchronize(end_), "cudaEventSynchronize"));
  SHARDSTEP_RETURN_IF_ERROR(stream_.status());
  float milliseconds = 0;
  SHARDSTEP_RETURN_IF_ERROR(CudaStatus(api, api.EventElapsedMs(&milliseconds, begin_, end_), "cudaEventElapsedTime"));
  return milliseconds;
}

absl::StatusOr<double> CudaTimer::Time(absl::FunctionRef<absl::Status()> enqueue) {
  SHARDSTEP_RETURN_IF_ERROR(Enclose(enqueue));
  return Await();
}

}  // namespace shardstep
