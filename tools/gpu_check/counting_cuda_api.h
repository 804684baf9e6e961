#ifndef SHARDSTEP_TOOLS_GPU_CHECK_COUNTING_CUDA_API_H_
#define SHARDSTEP_TOOLS_GPU_CHECK_COUNTING_CUDA_API_H_

#include <map>
#include <string>
#include <thread>

#include "shardstep/comm/cuda/cuda_api.h"
#include "shardstep/comm/mutex.h"

namespace shardstep::gpu_check {

/// Hands every call on to another table, and tells which of them block the host, or may: those that wait, that allocate
/// and give back, and asynchronous copies from or to pageable memory, which are not. Threads: any.
class CountingCudaApi : public CudaApi {
 public:
  /// `api` outlives it.
  explicit CountingCudaApi(CudaApi& api) : api_(api) {}

  /// What the calling thread has called since the last Begin, by name: empty when nothing would have blocked it.
  void Begin();
  std::map<std::string, int64_t> BlockingCalls();

  std::string ErrorText(int error) override { return api_.ErrorText(error); }
  int GetDeviceCount(int* count) override { return api_.GetDeviceCount(count); }
  int SetDevice(int device) override { return api_.SetDevice(device); }
  int GetDeviceProperties(int device, CudaDeviceProperties* properties) override {
    return api_.GetDeviceProperties(device, properties);
  }
  int MemGetInfo(int64_t* free_bytes, int64_t* total_bytes) override {
    return api_.MemGetInfo(free_bytes, total_bytes);
  }
  int DeviceSynchronize() override { return Note("DeviceSynchronize"), api_.DeviceSynchronize(); }
  int Malloc(void** pointer, int64_t size_bytes) override { return Note("Malloc"), api_.Malloc(pointer, size_bytes); }
  int Free(void* pointer) override { return Note("Free"), api_.Free(pointer); }
  int HostAlloc(void** pointer, int64_t size_bytes) override {
    return Note("HostAlloc"), api_.HostAlloc(pointer, size_bytes);
  }
  int FreeHost(void* pointer) override { return Note("FreeHost"), api_.FreeHost(pointer); }
  int HostRegister(void* pointer, int64_t size_bytes) override {
    return Note("HostRegister"), api_.HostRegister(pointer, size_bytes);
  }
  int HostUnregister(void* pointer) override { return Note("HostUnregister"), api_.HostUnregister(pointer); }
  int PointerGetAttributes(const void* pointer, CudaPointerInfo* info) override {
    return api_.PointerGetAttributes(pointer, info);
  }
  int Memcpy(void* to, const void* from, int64_t size_bytes) override {
    return Note("Memcpy"), api_.Memcpy(to, from, size_bytes);
  }
  int MemcpyAsync(void* to, const void* from, int64_t size_bytes, CudaStreamHandle stream) override;
  int MemsetAsync(void* to, int value, int64_t size_bytes, CudaStreamHandle stream) override {
    return api_.MemsetAsync(to, value, size_bytes, stream);
  }
  int StreamCreate(CudaStreamHandle* stream) override { return Note("StreamCreate"), api_.StreamCreate(stream); }
  int StreamDestroy(CudaStreamHandle stream) override { return Note("StreamDestroy"), api_.StreamDestroy(stream); }
  int StreamSynchronize(CudaStreamHandle stream) override {
    return Note("StreamSynchronize"), api_.StreamSynchronize(stream);
  }
  int StreamWaitEvent(CudaStreamHandle stream, CudaEventHandle event) override {
    return api_.StreamWaitEvent(stream, event);
  }
  int StreamWaitValue(CudaStreamHandle stream, const uint32_t* word, uint32_t value) override {
    return api_.StreamWaitValue(stream, word, value);
  }
  void Signal(uint32_t* word, uint32_t value) override { api_.Signal(word, value); }
  int LaunchHostFunction(CudaStreamHandle stream, void (*function)(void*), void* data) override {
    return api_.LaunchHostFunction(stream, function, data);
  }
  int EventCreate(CudaEventHandle* event, bool timing) override { return api_.EventCreate(event, timing); }
  int EventDestroy(CudaEventHandle event) override { return api_.EventDestroy(event); }
  int EventRecord(CudaEventHandle event, CudaStreamHandle stream) override { return api_.EventRecord(event, stream); }
  int EventQuery(CudaEventHandle event) override { return api_.EventQuery(event); }
  int EventSynchronize(CudaEventHandle event) override {
    return Note("EventSynchronize"), api_.EventSynchronize(event);
  }
  int EventElapsedMs(float* milliseconds, CudaEventHandle begin, CudaEventHandle end) override {
    return api_.EventElapsedMs(milliseconds, begin, end);
  }
  int StreamBeginCapture(CudaStreamHandle stream) override { return api_.StreamBeginCapture(stream); }
  int StreamEndCapture(CudaStreamHandle stream, CudaGraphHandle* graph) override {
    return api_.StreamEndCapture(stream, graph);
  }
  int StreamIsCapturing(CudaStreamHandle stream, bool* capturing) override {
    return api_.StreamIsCapturing(stream, capturing);
  }
  int GraphLaunch(CudaGraphHandle graph, CudaStreamHandle stream) override { return api_.GraphLaunch(graph, stream); }
  int GraphDestroy(CudaGraphHandle graph) override { return Note("GraphDestroy"), api_.GraphDestroy(graph); }
  void RangePush(const char* name) override { api_.RangePush(name); }
  void RangePop() override { api_.RangePop(); }

 private:
  void Note(const char* call);
  bool IsPageable(const void* pointer);

  CudaApi& api_;
  Mutex mutex_;
  std::map<std::thread::id, std::map<std::string, int64_t>> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace shardstep::gpu_check

#endif  // SHARDSTEP_TOOLS_GPU_CHECK_COUNTING_CUDA_API_H_
