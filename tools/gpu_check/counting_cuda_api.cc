#include "shardstep/tools/gpu_check/counting_cuda_api.h"

namespace shardstep::gpu_check {

void CountingCudaApi::Begin() {
  MutexLock lock(&mutex_);
  calls_.erase(std::this_thread::get_id());
}

std::map<std::string, int64_t> CountingCudaApi::BlockingCalls() {
  MutexLock lock(&mutex_);
  return calls_[std::this_thread::get_id()];
}

void CountingCudaApi::Note(const char* call) {
  MutexLock lock(&mutex_);
  ++calls_[std::this_thread::get_id()][call];
}

bool CountingCudaApi::IsPageable(const void* pointer) {
  CudaPointerInfo info;
  const int error = api_.PointerGetAttributes(pointer, &info);
  return error != kSuccess || info.kind == CudaPointerInfo::kUnknown || info.kind == CudaPointerInfo::kHost;
}

int CountingCudaApi::MemcpyAsync(void* to, const void* from, int64_t size_bytes, CudaStreamHandle stream) {
  if (size_bytes > 0 && (IsPageable(to) || IsPageable(from))) Note("MemcpyAsync of pageable memory");
  return api_.MemcpyAsync(to, from, size_bytes, stream);
}

}  // namespace shardstep::gpu_check
