#ifndef SHARDSTEP_COMM_CUDA_CUDA_API_H_
#define SHARDSTEP_COMM_CUDA_CUDA_API_H_

#include <cstdint>
#include <string>

namespace shardstep {

/// Handles of the CUDA runtime, by other names so that no header of ours needs its headers: cudaStream_t, cudaEvent_t,
/// cudaGraphExec_t.
using CudaStreamHandle = void*;
using CudaEventHandle = void*;
using CudaGraphHandle = void*;

/// What Shardstep asks about a device.
struct CudaDeviceProperties {
  std::string name;
  int major = 0;  ///< compute capability
  int minor = 0;
  int multiprocessors = 0;
  int64_t memory_bytes = 0;
  std::string uuid;
};

/// Where a pointer points to.
struct CudaPointerInfo {
  enum Kind { kUnknown, kHost, kPinned, kDevice, kManaged };
  Kind kind = kUnknown;
  int device = -1;
};

/// The calls of the CUDA runtime and driver that Shardstep makes, and the only place that makes them: the real table is
/// in the CUDA backend's shared object, tests put one in its place that runs on the host. Names and meaning are those
/// of the runtime (cudaMalloc, ...); what is returned is a cudaError_t, kSuccess or an error. Threads: as in the
/// runtime; calls that need a current device get the one that the calling thread set last.
class CudaApi {
 public:
  static constexpr int kSuccess = 0;
  static constexpr int kMemoryAllocation = 2;               // cudaErrorMemoryAllocation
  static constexpr int kInsufficientDriver = 35;            // cudaErrorInsufficientDriver: too old, or none
  static constexpr int kNoDevice = 100;                     // cudaErrorNoDevice
  static constexpr int kNotReady = 600;                     // cudaErrorNotReady
  static constexpr int kHostMemoryAlreadyRegistered = 712;  // cudaErrorHostMemoryAlreadyRegistered

  virtual ~CudaApi() = default;
  /// "cudaErrorNoDevice: no CUDA-capable device is detected".
  virtual std::string ErrorText(int error) = 0;

  /// `count` is set on success only.
  virtual int GetDeviceCount(int* count) = 0;
  virtual int SetDevice(int device) = 0;
  virtual int GetDeviceProperties(int device, CudaDeviceProperties* properties) = 0;
  /// Of the current device.
  virtual int MemGetInfo(int64_t* free_bytes, int64_t* total_bytes) = 0;
  virtual int DeviceSynchronize() = 0;

  virtual int Malloc(void** pointer, int64_t size_bytes) = 0;
  virtual int Free(void* pointer) = 0;
  /// Pinned, and mapped at the same address for every device.
  virtual int HostAlloc(void** pointer, int64_t size_bytes) = 0;
  virtual int FreeHost(void* pointer) = 0;
  /// Pins host memory that somebody else has allocated, for every device. kHostMemoryAlreadyRegistered: some of it is
  /// pinned already. HostUnregister: before that memory is given back.
  virtual int HostRegister(void* pointer, int64_t size_bytes) = 0;
  virtual int HostUnregister(void* pointer) = 0;
  virtual int PointerGetAttributes(const void* pointer, CudaPointerInfo* info) = 0;
  /// cudaMemcpyDefault. `Memcpy` blocks.
  virtual int Memcpy(void* to, const void* from, int64_t size_bytes) = 0;
  virtual int MemcpyAsync(void* to, const void* from, int64_t size_bytes, CudaStreamHandle stream) = 0;
  virtual int MemsetAsync(void* to, int value, int64_t size_bytes, CudaStreamHandle stream) = 0;

  /// cudaStreamNonBlocking: independent of the legacy default stream.
  virtual int StreamCreate(CudaStreamHandle* stream) = 0;
  virtual int StreamDestroy(CudaStreamHandle stream) = 0;
  virtual int StreamSynchronize(CudaStreamHandle stream) = 0;
  virtual int StreamWaitEvent(CudaStreamHandle stream, CudaEventHandle event) = 0;
  /// The stream goes on once *word >= value (unsigned, cyclic); `word` is pinned host memory that the host writes.
  virtual int StreamWaitValue(CudaStreamHandle stream, const uint32_t* word, uint32_t value) = 0;
  /// The host's side of StreamWaitValue: *word = value, once all that this thread has written before is visible. A
  /// store and no call of the runtime; it is here because what replaces the table must see who lets a stream go on.
  virtual void Signal(uint32_t* word, uint32_t value) = 0;
  /// cudaLaunchHostFunc.
  virtual int LaunchHostFunction(CudaStreamHandle stream, void (*function)(void*), void* data) = 0;

  /// `timing`: fit for EventElapsedMs, else without it, and cheaper. Waiting for it blocks the thread, never spins.
  virtual int EventCreate(CudaEventHandle* event, bool timing) = 0;
  virtual int EventDestroy(CudaEventHandle event) = 0;
  virtual int EventRecord(CudaEventHandle event, CudaStreamHandle stream) = 0;
  virtual int EventQuery(CudaEventHandle event) = 0;
  virtual int EventSynchronize(CudaEventHandle event) = 0;
  virtual int EventElapsedMs(float* milliseconds, CudaEventHandle begin, CudaEventHandle end) = 0;

  /// cudaStreamCaptureModeThreadLocal. `graph` is instantiated, ready to be launched.
  virtual int StreamBeginCapture(CudaStreamHandle stream) = 0;
  virtual int StreamEndCapture(CudaStreamHandle stream, CudaGraphHandle* graph) = 0;
  virtual int StreamIsCapturing(CudaStreamHandle stream, bool* capturing) = 0;
  virtual int GraphLaunch(CudaGraphHandle graph, CudaStreamHandle stream) = 0;
  virtual int GraphDestroy(CudaGraphHandle graph) = 0;

  /// NVTX, of the calling thread.
  virtual void RangePush(const char* name) = 0;
  virtual void RangePop() = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_CUDA_CUDA_API_H_
