#ifndef SHARDSTEP_COMM_CUDA_CUDA_MEMORY_H_
#define SHARDSTEP_COMM_CUDA_CUDA_MEMORY_H_

#include <memory>

#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/comm/memory.h"

namespace shardstep {

/// Device memory (cudaMalloc) of one device; AllocateForBoth is pinned host memory. kOnFirstUse is kOnCreation: a
/// device has no pages that come later. Read and Write block on a stream of their own, which only they use. What is
/// free on the device is looked at before anything is allocated. Buffers may outlive it, but not the table of calls.
absl::StatusOr<std::unique_ptr<Memory>> CreateCudaMemory(const CudaDeviceRef& device);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_CUDA_CUDA_MEMORY_H_
