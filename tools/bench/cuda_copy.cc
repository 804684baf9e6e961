#include "shardstep/tools/bench/cuda_copy.h"

#include <algorithm>

namespace shardstep {
namespace {

constexpr int64_t kLeastBytes = 4096;
constexpr int64_t kMostBytes = int64_t{1} << 30;

}  // namespace

absl::StatusOr<std::unique_ptr<CudaCopy>> CudaCopy::Create(CudaStream& stream, Memory& memory, int64_t bytes) {
  std::unique_ptr<CudaCopy> copy(new CudaCopy(stream));
  const int64_t size_bytes = std::clamp(bytes, kLeastBytes, kMostBytes) / 2;
  for (Buffer* buffer : {&copy->from_, &copy->to_}) {
    SHARDSTEP_ASSIGN_OR_RETURN(*buffer, memory.Allocate(size_bytes, "a copy", PageBacking::kOnCreation));
  }
  return copy;
}

absl::Status CudaCopy::Enqueue() {
  return stream_.Enqueue("cudaMemcpyAsync", [this](CudaStreamHandle handle) {
    return stream_.device().api->MemcpyAsync(to_.view().data, from_.view().data, from_.size_bytes(), handle);
  });
}

}  // namespace shardstep
