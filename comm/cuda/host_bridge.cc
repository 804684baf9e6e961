#include "shardstep/comm/cuda/host_bridge.h"

#include <utility>
#include <vector>

namespace shardstep {

class HostBridge::Impl {
 public:
  Impl(const CudaDeviceRef& device, Buffer word) : device_(device), word_(std::move(word)) {}
  ~Impl();

  absl::Status Enqueue(absl::string_view name, CudaStream& stream, HostStream::Work work);
  absl::Status status() const {
    MutexLock lock(&mutex_);
    return status_;
  }

 private:
  /// An event that nobody waits for.
  absl::StatusOr<CudaEventHandle> TakeEvent();
  void GiveEvent(CudaEventHandle event) {
    MutexLock lock(&mutex_);
    free_events_.push_back(event);
  }
  /// Waits for `event`, then does `work` unless an earlier one failed. Worker only.
  absl::Status Do(absl::string_view name, CudaEventHandle event, const HostStream::Work& work);

  const CudaDeviceRef device_;
  const Buffer word_;  ///< uint32_t: the number of the last work that is done
  uint32_t enqueued_ = 0;
  /// Recorded where the stream has passed its last wait for the word.
  CudaEventHandle passed_ = nullptr;

  mutable Mutex mutex_;
  std::vector<CudaEventHandle> free_events_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<ThreadStream> worker_ = std::make_unique<ThreadStream>();
};

HostBridge::Impl::~Impl() {
  worker_.reset();
  device_.api->SetDevice(device_.device);
  if (passed_ != nullptr) {
    device_.api->EventSynchronize(passed_);
    device_.api->EventDestroy(passed_);
  }
  for (const CudaEventHandle event : free_events_) device_.api->EventDestroy(event);
}

absl::StatusOr<CudaEventHandle> HostBridge::Impl::TakeEvent() {
  {
    MutexLock lock(&mutex_);
    if (!free_events_.empty()) {
      const CudaEventHandle event = free_events_.back();
      free_events_.pop_back();
      return event;
    }
  }
  SHARDSTEP_RETURN_IF_ERROR(MakeCurrent(device_));
  CudaEventHandle event = nullptr;
  SHARDSTEP_RETURN_IF_ERROR(CudaStatus(*device_.api, device_.api->EventCreate(&event, false), "cudaEventCreate"));
  return event;
}

absl::Status HostBridge::Impl::Enqueue(absl::string_view name, CudaStream& stream, HostStream::Work work) {
  SHARDSTEP_RETURN_IF_ERROR(stream.status());
  if (passed_ == nullptr) {
    SHARDSTEP_ASSIGN_OR_RETURN(passed_, TakeEvent());
  }
  SHARDSTEP_ASSIGN_OR_RETURN(const CudaEventHandle event, TakeEvent());
  const uint32_t number = enqueued_ + 1;
  bool waits = false;
  const absl::Status enqueued = stream.Enqueue(name, [&](CudaStreamHandle handle) {
    int error = device_.api->EventRecord(event, handle);
    if (error != CudaApi::kSuccess) return error;
    error = device_.api->StreamWaitValue(handle, word_.as<uint32_t>(), number);
    if (error != CudaApi::kSuccess) return error;
    waits = true;
    return device_.api->EventRecord(passed_, handle);
  });
  if (!waits) {
    GiveEvent(event);
    return enqueued;
  }
  enqueued_ = number;
  if (!enqueued.ok()) work = [] { return absl::OkStatus(); };  // the stream still has to go on
  worker_->Enqueue("", [this, name, event, number, &stream, work = std::move(work)] {
    const absl::Status done = Do(name, event, work);
    if (!done.ok()) {
      stream.Fail(done);
      MutexLock lock(&mutex_);
      if (status_.ok()) status_ = done;
    }
    GiveEvent(event);
    device_.api->Signal(word_.as<uint32_t>(), number);
    return absl::OkStatus();
  });
  return enqueued;
}

absl::Status HostBridge::Impl::Do(absl::string_view name, CudaEventHandle event, const HostStream::Work& work) {
  SHARDSTEP_RETURN_IF_ERROR(status());
  SHARDSTEP_RETURN_IF_ERROR(Annotate(MakeCurrent(device_), name));
  SHARDSTEP_RETURN_IF_ERROR(
      CudaStatus(*device_.api, device_.api->EventSynchronize(event), absl::StrCat(name, ": cudaEventSynchronize")));
  return Annotate(work(), name);
}

absl::StatusOr<std::unique_ptr<HostBridge>> HostBridge::Create(const CudaDeviceRef& device, Memory& memory) {
  SHARDSTEP_ASSIGN_OR_RETURN(Buffer word, memory.AllocateForBoth(sizeof(uint32_t), "word of a host bridge"));
  return std::unique_ptr<HostBridge>(new HostBridge(std::make_unique<Impl>(device, std::move(word))));
}

HostBridge::HostBridge(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HostBridge::~HostBridge() = default;

absl::Status HostBridge::Enqueue(absl::string_view name, CudaStream& stream, HostStream::Work work) {
  return impl_->Enqueue(name, stream, std::move(work));
}

absl::Status HostBridge::status() const { return impl_->status(); }

}  // namespace shardstep
