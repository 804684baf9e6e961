#ifndef SHARDSTEP_TOOLS_BENCH_CUDA_COPY_H_
#define SHARDSTEP_TOOLS_BENCH_CUDA_COPY_H_

#include <cstdint>
#include <memory>

#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/comm/memory.h"

namespace shardstep {

/// A plain copy within a GPU's memory: what its bandwidth is.
class CudaCopy {
 public:
  /// Reads and writes about `bytes` together, but not more than 1 GiB. `stream` and `memory` outlive it.
  static absl::StatusOr<std::unique_ptr<CudaCopy>> Create(CudaStream& stream, Memory& memory, int64_t bytes);

  absl::Status Enqueue();
  /// Read and written.
  int64_t bytes() const { return 2 * from_.size_bytes(); }

 private:
  explicit CudaCopy(CudaStream& stream) : stream_(stream) {}

  CudaStream& stream_;
  Buffer from_, to_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_CUDA_COPY_H_
