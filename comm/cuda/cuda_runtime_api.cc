#include <cudaTypedefs.h>
#include <cuda_runtime.h>
#include <nvtx3/nvToolsExt.h>

#include <atomic>
#include <cstdio>

#include "shardstep/comm/cuda/cuda_api.h"

namespace shardstep {
namespace {

static_assert(CudaApi::kSuccess == cudaSuccess);
static_assert(CudaApi::kMemoryAllocation == cudaErrorMemoryAllocation);
static_assert(CudaApi::kInsufficientDriver == cudaErrorInsufficientDriver);
static_assert(CudaApi::kNoDevice == cudaErrorNoDevice);
static_assert(CudaApi::kNotReady == cudaErrorNotReady);
static_assert(CudaApi::kHostMemoryAlreadyRegistered == cudaErrorHostMemoryAlreadyRegistered);
static_assert(sizeof(CudaStreamHandle) == sizeof(cudaStream_t));

cudaStream_t AsStream(CudaStreamHandle stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t AsEvent(CudaEventHandle event) { return static_cast<cudaEvent_t>(event); }
size_t Size(int64_t size_bytes) { return static_cast<size_t>(size_bytes); }

/// The runtime keeps the last error of a thread until somebody asks for it; other users of CUDA in this process are not
/// to find ours.
int Result(cudaError_t error) {
  if (error != cudaSuccess) cudaGetLastError();
  return error;
}

std::string UuidText(const cudaUUID_t& uuid) {
  std::string text = "GPU";
  for (int i = 0; i < 16; ++i) {
    char byte[4];
    std::snprintf(byte, sizeof(byte), "%s%02x", i == 0 || i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
                  static_cast<unsigned>(static_cast<unsigned char>(uuid.bytes[i])));
    text += byte;
  }
  return text;
}

class RuntimeApi : public CudaApi {
 public:
  std::string ErrorText(int error) override {
    const auto code = static_cast<cudaError_t>(error);
    return std::string(cudaGetErrorName(code)) + ": " + cudaGetErrorString(code);
  }

  int GetDeviceCount(int* count) override {
    int found = 0;
    const int error = Result(cudaGetDeviceCount(&found));
    if (error == kSuccess) *count = found;
    return error;
  }
  int SetDevice(int device) override { return Result(cudaSetDevice(device)); }
  int GetDeviceProperties(int device, CudaDeviceProperties* properties) override {
    cudaDeviceProp found;
    const int error = Result(cudaGetDeviceProperties(&found, device));
    if (error != kSuccess) return error;
    properties->name = found.name;
    properties->major = found.major;
    properties->minor = found.minor;
    properties->multiprocessors = found.multiProcessorCount;
    properties->memory_bytes = static_cast<int64_t>(found.totalGlobalMem);
    properties->uuid = UuidText(found.uuid);
    return kSuccess;
  }
  int MemGetInfo(int64_t* free_bytes, int64_t* total_bytes) override {
    size_t free = 0;
    size_t total = 0;
    const int error = Result(cudaMemGetInfo(&free, &total));
    *free_bytes = static_cast<int64_t>(free);
    *total_bytes = static_cast<int64_t>(total);
    return error;
  }
  int DeviceSynchronize() override { return Result(cudaDeviceSynchronize()); }

  int Malloc(void** pointer, int64_t size_bytes) override { return Result(cudaMalloc(pointer, Size(size_bytes))); }
  int Free(void* pointer) override { return Result(cudaFree(pointer)); }
  int HostAlloc(void** pointer, int64_t size_bytes) override {
    return Result(cudaHostAlloc(pointer, Size(size_bytes), cudaHostAllocPortable | cudaHostAllocMapped));
  }
  int FreeHost(void* pointer) override { return Result(cudaFreeHost(pointer)); }
  int HostRegister(void* pointer, int64_t size_bytes) override {
    return Result(cudaHostRegister(pointer, Size(size_bytes), cudaHostRegisterPortable));
  }
  int HostUnregister(void* pointer) override { return Result(cudaHostUnregister(pointer)); }
  int PointerGetAttributes(const void* pointer, CudaPointerInfo* info) override {
    cudaPointerAttributes attributes;
    const int error = Result(cudaPointerGetAttributes(&attributes, pointer));
    if (error != kSuccess) return error;
    info->device = attributes.device;
    switch (attributes.type) {
      case cudaMemoryTypeUnregistered:
        info->kind = CudaPointerInfo::kHost;
        break;
      case cudaMemoryTypeHost:
        info->kind = CudaPointerInfo::kPinned;
        break;
      case cudaMemoryTypeDevice:
        info->kind = CudaPointerInfo::kDevice;
        break;
      case cudaMemoryTypeManaged:
        info->kind = CudaPointerInfo::kManaged;
        break;
    }
    return kSuccess;
  }
  int Memcpy(void* to, const void* from, int64_t size_bytes) override {
    return Result(cudaMemcpy(to, from, Size(size_bytes), cudaMemcpyDefault));
  }
  int MemcpyAsync(void* to, const void* from, int64_t size_bytes, CudaStreamHandle stream) override {
    return Result(cudaMemcpyAsync(to, from, Size(size_bytes), cudaMemcpyDefault, AsStream(stream)));
  }
  int MemsetAsync(void* to, int value, int64_t size_bytes, CudaStreamHandle stream) override {
    return Result(cudaMemsetAsync(to, value, Size(size_bytes), AsStream(stream)));
  }

  int StreamCreate(CudaStreamHandle* stream) override {
    cudaStream_t made = nullptr;
    const int error = Result(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking));
    *stream = made;
    return error;
  }
  int StreamDestroy(CudaStreamHandle stream) override { return Result(cudaStreamDestroy(AsStream(stream))); }
  int StreamSynchronize(CudaStreamHandle stream) override { return Result(cudaStreamSynchronize(AsStream(stream))); }
  int StreamWaitEvent(CudaStreamHandle stream, CudaEventHandle event) override {
    return Result(cudaStreamWaitEvent(AsStream(stream), AsEvent(event), cudaEventWaitDefault));
  }
  int StreamWaitValue(CudaStreamHandle stream, const uint32_t* word, uint32_t value) override {
    const int error = FindStreamWaitValue();
    if (error != kSuccess) return error;
    // Pinned memory has one address for host and device. Errors of the driver have the runtime's numbers.
    return stream_wait_value_.load()(AsStream(stream), reinterpret_cast<CUdeviceptr>(word), value,
                                     CU_STREAM_WAIT_VALUE_GEQ);
  }
  void Signal(uint32_t* word, uint32_t value) override {
    std::atomic_ref<uint32_t>(*word).store(value, std::memory_order_release);
  }
  int LaunchHostFunction(CudaStreamHandle stream, void (*function)(void*), void* data) override {
    return Result(cudaLaunchHostFunc(AsStream(stream), function, data));
  }

  int EventCreate(CudaEventHandle* event, bool timing) override {
    cudaEvent_t made = nullptr;
    const unsigned flags = cudaEventBlockingSync | (timing ? 0U : static_cast<unsigned>(cudaEventDisableTiming));
    const int error = Result(cudaEventCreateWithFlags(&made, flags));
    *event = made;
    return error;
  }
  int EventDestroy(CudaEventHandle event) override { return Result(cudaEventDestroy(AsEvent(event))); }
  int EventRecord(CudaEventHandle event, CudaStreamHandle stream) override {
    return Result(cudaEventRecord(AsEvent(event), AsStream(stream)));
  }
  int EventQuery(CudaEventHandle event) override { return Result(cudaEventQuery(AsEvent(event))); }
  int EventSynchronize(CudaEventHandle event) override { return Result(cudaEventSynchronize(AsEvent(event))); }
  int EventElapsedMs(float* milliseconds, CudaEventHandle begin, CudaEventHandle end) override {
    return Result(cudaEventElapsedTime(milliseconds, AsEvent(begin), AsEvent(end)));
  }

  int StreamBeginCapture(CudaStreamHandle stream) override {
    return Result(cudaStreamBeginCapture(AsStream(stream), cudaStreamCaptureModeThreadLocal));
  }
  int StreamEndCapture(CudaStreamHandle stream, CudaGraphHandle* graph) override {
    *graph = nullptr;
    cudaGraph_t captured = nullptr;
    const int ended = Result(cudaStreamEndCapture(AsStream(stream), &captured));
    if (ended != kSuccess) return ended;
    cudaGraphExec_t executable = nullptr;
    const int error = Result(cudaGraphInstantiate(&executable, captured, 0));
    cudaGraphDestroy(captured);
    *graph = executable;
    return error;
  }
  int StreamIsCapturing(CudaStreamHandle stream, bool* capturing) override {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    const int error = Result(cudaStreamIsCapturing(AsStream(stream), &status));
    *capturing = status != cudaStreamCaptureStatusNone;
    return error;
  }
  int GraphLaunch(CudaGraphHandle graph, CudaStreamHandle stream) override {
    return Result(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), AsStream(stream)));
  }
  int GraphDestroy(CudaGraphHandle graph) override {
    return Result(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)));
  }

  void RangePush(const char* name) override { nvtxRangePushA(name); }
  void RangePop() override { nvtxRangePop(); }

 private:
  /// The driver's library is not linked: it is there only where a driver is.
  int FindStreamWaitValue() {
    if (stream_wait_value_.load() != nullptr) return kSuccess;
    constexpr unsigned kVersion = 11070;  // of the signature
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    const int error =
        Result(cudaGetDriverEntryPointByVersion("cuStreamWaitValue32", &function, kVersion, cudaEnableDefault, &found));
    if (error != kSuccess) return error;
    if (found != cudaDriverEntryPointSuccess) return cudaErrorNotSupported;
    stream_wait_value_ = reinterpret_cast<PFN_cuStreamWaitValue32_v11070>(function);
    return kSuccess;
  }

  std::atomic<PFN_cuStreamWaitValue32_v11070> stream_wait_value_{nullptr};
};

}  // namespace
}  // namespace shardstep

/// Of the library that this shared object was built with.
extern "C" __attribute__((visibility("default"))) const char* shardstep_cuda_version() { return SHARDSTEP_VERSION; }

/// See CudaApi.
extern "C" __attribute__((visibility("default"))) shardstep::CudaApi* shardstep_cuda_api() {
  static shardstep::RuntimeApi api;
  return &api;
}
