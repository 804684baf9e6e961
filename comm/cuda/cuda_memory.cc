#include "shardstep/comm/cuda/cuda_memory.h"

#include <cstring>

#include "shardstep/comm/host_memory.h"

namespace shardstep {
namespace {

class CudaMemory : public Memory {
 public:
  CudaMemory(const CudaDeviceRef& device, CudaStreamHandle stream)
      : device_(device), api_(*device.api), stream_(stream) {}
  ~CudaMemory() override {
    api_.SetDevice(device_.device);
    api_.StreamDestroy(stream_);
  }

  absl::StatusOr<Buffer> Allocate(int64_t size_bytes, absl::string_view what, PageBacking) override {
    SHARDSTEP_RETURN_IF_ERROR(CheckSize(size_bytes, what));
    if (size_bytes == 0) return Buffer();
    SHARDSTEP_RETURN_IF_ERROR(CheckAvailable(size_bytes, what));
    void* pointer = nullptr;
    SHARDSTEP_RETURN_IF_ERROR(
        CudaStatus(api_, api_.Malloc(&pointer, size_bytes), Needs(size_bytes, what) + ": cudaMalloc"));
    Buffer buffer({static_cast<std::byte*>(pointer), size_bytes}, [device = device_](BufferView memory) {
      device.api->SetDevice(device.device);
      device.api->Free(memory.data);
    });
    MutexLock lock(&mutex_);
    SHARDSTEP_RETURN_IF_ERROR(
        CudaStatus(api_, api_.MemsetAsync(pointer, 0, size_bytes, stream_), absl::StrCat(what, ": cudaMemsetAsync")));
    SHARDSTEP_RETURN_IF_ERROR(AwaitStream(what));
    return buffer;
  }

  absl::StatusOr<Buffer> AllocateForBoth(int64_t size_bytes, absl::string_view what) override {
    SHARDSTEP_RETURN_IF_ERROR(CheckSize(size_bytes, what));
    if (size_bytes == 0) return Buffer();
    SHARDSTEP_RETURN_IF_ERROR(CheckMemoryAvailable(size_bytes, what));
    SHARDSTEP_RETURN_IF_ERROR(Annotate(MakeCurrent(device_), what));
    void* pointer = nullptr;
    SHARDSTEP_RETURN_IF_ERROR(CudaStatus(api_, api_.HostAlloc(&pointer, size_bytes),
                                         absl::StrCat(what, ": ", size_bytes, " bytes pinned: cudaHostAlloc")));
    std::memset(pointer, 0, static_cast<size_t>(size_bytes));
    return Buffer({static_cast<std::byte*>(pointer), size_bytes}, [device = device_](BufferView memory) {
      device.api->SetDevice(device.device);
      device.api->FreeHost(memory.data);
    });
  }

  absl::Status CheckAvailable(int64_t needed_bytes, absl::string_view what) override {
    SHARDSTEP_RETURN_IF_ERROR(Annotate(MakeCurrent(device_), what));
    int64_t free_bytes = 0;
    int64_t total_bytes = 0;
    SHARDSTEP_RETURN_IF_ERROR(
        CudaStatus(api_, api_.MemGetInfo(&free_bytes, &total_bytes), absl::StrCat(what, ": cudaMemGetInfo")));
    if (needed_bytes <= free_bytes) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        absl::StrCat(Needs(needed_bytes, what), ", ", free_bytes, " of its ", total_bytes, " are free"));
  }

  absl::Status Read(const void* from, void* to, int64_t size_bytes) override {
    return Copy(from, to, size_bytes, "read of device memory");
  }
  absl::Status Write(const void* from, void* to, int64_t size_bytes) override {
    return Copy(from, to, size_bytes, "write of device memory");
  }

  bool Reaches(BufferView buffer) override {
    if (buffer.size_bytes == 0) return true;
    return Reaches(buffer.data) && Reaches(buffer.data + buffer.size_bytes - 1);
  }

 private:
  static absl::Status CheckSize(int64_t size_bytes, absl::string_view what) {
    if (size_bytes >= 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(what, ": size_bytes = ", size_bytes, " is negative"));
  }

  std::string Needs(int64_t size_bytes, absl::string_view what) const {
    return absl::StrCat(what, ": needs ", size_bytes, " bytes of device ", device_.device);
  }

  bool Reaches(const std::byte* byte) {
    CudaPointerInfo info;
    if (!MakeCurrent(device_).ok() || api_.PointerGetAttributes(byte, &info) != CudaApi::kSuccess) return false;
    return info.kind == CudaPointerInfo::kPinned || info.kind == CudaPointerInfo::kManaged ||
           (info.kind == CudaPointerInfo::kDevice && info.device == device_.device);
  }

  absl::Status Copy(const void* from, void* to, int64_t size_bytes, absl::string_view what) {
    if (size_bytes == 0) return absl::OkStatus();
    SHARDSTEP_RETURN_IF_ERROR(Annotate(MakeCurrent(device_), what));
    MutexLock lock(&mutex_);
    SHARDSTEP_RETURN_IF_ERROR(
        CudaStatus(api_, api_.MemcpyAsync(to, from, size_bytes, stream_), absl::StrCat(what, ": cudaMemcpyAsync")));
    return AwaitStream(what);
  }

  absl::Status AwaitStream(absl::string_view what) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return CudaStatus(api_, api_.StreamSynchronize(stream_), absl::StrCat(what, ": cudaStreamSynchronize"));
  }

  const CudaDeviceRef device_;
  CudaApi& api_;
  Mutex mutex_;  ///< one copy at a time
  const CudaStreamHandle stream_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<Memory>> CreateCudaMemory(const CudaDeviceRef& device) {
  SHARDSTEP_RETURN_IF_ERROR(MakeCurrent(device));
  CudaStreamHandle stream = nullptr;
  SHARDSTEP_RETURN_IF_ERROR(
      CudaStatus(*device.api, device.api->StreamCreate(&stream), "stream for copies of memory: cudaStreamCreate"));
  return std::make_unique<CudaMemory>(device, stream);
}

}  // namespace shardstep
