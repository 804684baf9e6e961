#include "shardstep/comm/cuda/cuda_stream.h"

#include <algorithm>
#include <utility>

namespace shardstep {

absl::Status CudaStatus(CudaApi& api, int error, absl::string_view what) {
  if (error == CudaApi::kSuccess) return absl::OkStatus();
  const std::string message = absl::StrCat(what, ": ", api.ErrorText(error));
  return error == CudaApi::kMemoryAllocation ? absl::ResourceExhaustedError(message) : absl::InternalError(message);
}

absl::Status MakeCurrent(const CudaDeviceRef& device) {
  const int error = device.api->SetDevice(device.device);
  return error == CudaApi::kSuccess
             ? absl::OkStatus()
             : CudaStatus(*device.api, error, absl::StrCat("cudaSetDevice(", device.device, ")"));
}

CudaStream::CudaStream(const CudaDeviceRef& device, CudaStreamHandle handle, bool owned, absl::string_view name)
    : device_(device), handle_(handle), owned_(owned), name_(name) {}

absl::StatusOr<std::unique_ptr<CudaStream>> CudaStream::Create(const CudaDeviceRef& device, absl::string_view name) {
  SHARDSTEP_RETURN_IF_ERROR(Annotate(MakeCurrent(device), name));
  CudaStreamHandle handle = nullptr;
  const int error = device.api->StreamCreate(&handle);
  SHARDSTEP_RETURN_IF_ERROR(CudaStatus(*device.api, error, absl::StrCat(name, ": cudaStreamCreate")));
  std::unique_ptr<CudaStream> stream(new CudaStream(device, handle, true, name));
  SHARDSTEP_RETURN_IF_ERROR(stream->MakeEvents());
  return stream;
}

absl::StatusOr<std::unique_ptr<CudaStream>> CudaStream::View(const CudaDeviceRef& device, CudaStreamHandle handle,
                                                             absl::string_view name) {
  // cudaStreamLegacy is 1, cudaStreamPerThread 2.
  if (reinterpret_cast<uintptr_t>(handle) <= 2) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": a stream made by cudaStreamCreate is needed, not a default stream"));
  }
  SHARDSTEP_RETURN_IF_ERROR(Annotate(MakeCurrent(device), name));
  std::unique_ptr<CudaStream> stream(new CudaStream(device, handle, false, name));
  SHARDSTEP_RETURN_IF_ERROR(stream->MakeEvents());
  const absl::Status probe = CudaStatus(*device.api, device.api->EventRecord(stream->events_[0], handle),
                                        absl::StrCat(name, ": cudaEventRecord"));
  if (!probe.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("not a stream of device ", device.device, " (", probe.message(), ")"));
  }
  return stream;
}

absl::Status CudaStream::MakeEvents() {
  events_.reserve(kEvents);
  for (int i = 0; i < kEvents; ++i) {
    CudaEventHandle event = nullptr;
    const int error = device_.api->EventCreate(&event, false);
    SHARDSTEP_RETURN_IF_ERROR(CudaStatus(*device_.api, error, absl::StrCat(name_, ": cudaEventCreate")));
    events_.push_back(event);
  }
  MutexLock lock(&mutex_);
  clocks_.resize(kEvents);
  return absl::OkStatus();
}

CudaStream::~CudaStream() {
  device_.api->SetDevice(device_.device);
  if (!callbacks_.empty() || !captured_callbacks_.empty()) device_.api->StreamSynchronize(handle_);
  for (const CudaEventHandle event : events_) device_.api->EventDestroy(event);
  if (owned_) device_.api->StreamDestroy(handle_);
}

Event CudaStream::Record() {
  int64_t ticket = 0;
  {
    MutexLock lock(&mutex_);
    ticket = ++recorded_;
  }
  static_cast<void>(Enqueue(
      "cudaEventRecord", [&](CudaStreamHandle handle) { return device_.api->EventRecord(EventOf(ticket), handle); }));
  // Only now, or who waits for the slot's earlier ticket meanwhile would think itself behind more than it is.
  MutexLock lock(&mutex_);
  clocks_[static_cast<size_t>(ticket % kEvents)] = clock_;
  return Event{this, ticket};
}

void CudaStream::Wait(const Event& event) {
  if (event.stream == nullptr || event.stream == this) return;
  auto* const other = dynamic_cast<CudaStream*>(event.stream);
  if (other == nullptr || other->device_.api != device_.api || other->device_.device != device_.device) {
    Fail(absl::InternalError(absl::StrCat(name_, ": cannot wait for a stream that is not of its device")));
    return;
  }
  Fail(other->status());
  if (other->IsSettled(event.ticket)) return;
  static_cast<void>(WaitFor(other->EventOf(event.ticket), other->PointOf(event.ticket)));
}

StreamPoint CudaStream::Mark() {
  MutexLock lock(&mutex_);
  return {.stream = identity_, .position = ++recorded_, .clock = clock_};
}

absl::Status CudaStream::WaitFor(CudaEventHandle event, const StreamPoint& point) {
  if (point.stream == nullptr || point.stream == identity_ || IsBehind(point)) return status();
  SHARDSTEP_RETURN_IF_ERROR(Enqueue(
      "cudaStreamWaitEvent", [&](CudaStreamHandle handle) { return device_.api->StreamWaitEvent(handle, event); }));
  MutexLock lock(&mutex_);
  clock_.Merge(point.clock);
  clock_.Advance(point.stream, point.position);
  return absl::OkStatus();
}

// Where the ring's event was recorded again, what is waited for is later; the point says less.
StreamPoint CudaStream::PointOf(int64_t ticket) const {
  MutexLock lock(&mutex_);
  return {.stream = identity_, .position = ticket, .clock = clocks_[static_cast<size_t>(ticket % kEvents)]};
}

bool CudaStream::IsBehind(const StreamPoint& point) const {
  MutexLock lock(&mutex_);
  return clock_.IsBehind(point.stream, point.position);
}

absl::Status CudaStream::Synchronize(const Event& event) {
  if (event.stream != nullptr && event.stream != this) {
    return absl::InvalidArgumentError("Synchronize: the event belongs to another stream");
  }
  if (event.stream != nullptr && !IsSettled(event.ticket)) {
    static_cast<void>(Enqueue("cudaEventSynchronize",
                              [&](CudaStreamHandle) { return device_.api->EventSynchronize(EventOf(event.ticket)); }));
  }
  return status();
}

absl::Status CudaStream::status() const {
  MutexLock lock(&mutex_);
  absl::Status status = status_;
  for (size_t i = 0; i < failures_.size() && status.ok(); ++i) status = failures_[i]->status();
  return status;
}

void CudaStream::Call(absl::string_view name, std::function<void()> function) {
  while (!callbacks_.empty() && callbacks_.front()->called) callbacks_.pop_front();
  auto callback = std::make_unique<Callback>();
  callback->function = std::move(function);
  callback->failed = &failed_;
  const absl::Status status = Enqueue(name, [&](CudaStreamHandle handle) {
    const int error = device_.api->StreamIsCapturing(handle, &callback->captured);
    return error != CudaApi::kSuccess ? error : device_.api->LaunchHostFunction(handle, RunCallback, callback.get());
  });
  if (!status.ok()) return;
  std::deque<std::unique_ptr<Callback>>& callbacks = callback->captured ? captured_callbacks_ : callbacks_;
  callbacks.push_back(std::move(callback));
}

void CudaStream::RunCallback(void* data) {
  auto* const callback = static_cast<Callback*>(data);
  if (!*callback->failed) callback->function();
  callback->called = true;
}

absl::Status CudaStream::Enqueue(absl::string_view what, const std::function<int(CudaStreamHandle)>& enqueue) {
  SHARDSTEP_RETURN_IF_ERROR(status());
  absl::Status current = MakeCurrent(device_);
  if (current.ok()) {
    const int error = enqueue(handle_);
    if (error == CudaApi::kSuccess) return absl::OkStatus();
    current = CudaStatus(*device_.api, error, what);
  }
  Fail(Annotate(current, name_));
  return status();
}

void CudaStream::Fail(const absl::Status& status) {
  if (status.ok()) return;
  MutexLock lock(&mutex_);
  if (!status_.ok()) return;
  status_ = status;
  failed_ = true;
}

void CudaStream::FailsWith(std::shared_ptr<const StreamFailure> failure) {
  MutexLock lock(&mutex_);
  if (std::find(failures_.begin(), failures_.end(), failure) == failures_.end()) {
    failures_.push_back(std::move(failure));
  }
}

void CudaStream::Settle() {
  MutexLock lock(&mutex_);
  settled_ = recorded_;
}

bool CudaStream::IsSettled(int64_t ticket) const {
  MutexLock lock(&mutex_);
  return ticket <= settled_;
}

bool CudaStream::IsReached(const Event& event) {
  if (event.stream == nullptr || IsSettled(event.ticket)) return true;
  int error = CudaApi::kSuccess;
  const absl::Status status = Enqueue("cudaEventQuery", [&](CudaStreamHandle) {
    error = device_.api->EventQuery(EventOf(event.ticket));
    return error == CudaApi::kNotReady ? CudaApi::kSuccess : error;
  });
  return !status.ok() || error == CudaApi::kSuccess;
}

absl::StatusOr<CudaStream*> AsCudaStream(Stream& stream, absl::string_view operation) {
  auto* const cuda_stream = dynamic_cast<CudaStream*>(&stream);
  if (cuda_stream == nullptr) return absl::InvalidArgumentError(absl::StrCat(operation, ": needs a CUDA stream"));
  return cuda_stream;
}

}  // namespace shardstep
