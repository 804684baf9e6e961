#ifndef SHARDSTEP_OPTIMIZER_CUDA_LAUNCH_CUH_
#define SHARDSTEP_OPTIMIZER_CUDA_LAUNCH_CUH_

#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>

#include "shardstep/optimizer/cuda_vectors-inl.h"

/// For this room's .cu files only: the device as the Machine of cuda_vectors-inl.h, and launches of kernels.

namespace shardstep::cuda {

/// A lane of a warp.
class DeviceMachine {
 public:
  template <typename T>
  struct PerLane {
    T value;
    __device__ __forceinline__ T& operator[](int /*lane*/) { return value; }
  };

  // Evict first: nobody reads it again soon.
  __device__ __forceinline__ Words4 Load(const void* from) const {
    const uint4 words = __ldcs(static_cast<const uint4*>(from));
    return {{words.x, words.y, words.z, words.w}};
  }
  __device__ __forceinline__ void Store(const Words4& words, void* to) const {
    __stcs(static_cast<uint4*>(to), make_uint4(words.word[0], words.word[1], words.word[2], words.word[3]));
  }

  template <typename Function>
  __device__ __forceinline__ void ForEachLane(const Function& function) const {
    function(static_cast<int>(threadIdx.x % kWarpLanes));
  }
  __device__ __forceinline__ void SyncWarp() const { __syncwarp(); }
  template <typename T>
  __device__ __forceinline__ PerLane<T> Down(const PerLane<T>& from, int distance) const {
    return {__shfl_down_sync(kAllLanes, from.value, distance)};
  }
  __device__ __forceinline__ bool Any(const PerLane<bool>& values) const {
    return __any_sync(kAllLanes, values.value) != 0;
  }

  __device__ __forceinline__ void AtomicAdd(uint64_t* word, uint64_t value) const {
    atomicAdd(reinterpret_cast<unsigned long long*>(word), static_cast<unsigned long long>(value));
  }
  __device__ __forceinline__ void AtomicMax(uint32_t* word, uint32_t value) const { atomicMax(word, value); }
  __device__ __forceinline__ void AtomicMin(uint64_t* word, uint64_t value) const {
    atomicMin(reinterpret_cast<unsigned long long*>(word), static_cast<unsigned long long>(value));
  }

  __device__ __forceinline__ void PublishToHost(int64_t value, int64_t* word) const {
    __threadfence_system();
    __syncwarp();
    if (threadIdx.x % kWarpLanes != 0) return;
    __threadfence_system();
    *static_cast<volatile int64_t*>(word) = value;
  }

 private:
  static constexpr unsigned kAllLanes = 0xffffffffu;
};

/// Blocks of `kKernel` with `threads` each that fill the current device: asked once per device.
template <auto kKernel>
cudaError_t FillingBlocks(int threads, int* blocks) {
  constexpr int kDevices = 64;
  static std::atomic<int> known[kDevices];
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  if (device < kDevices) *blocks = known[device].load(std::memory_order_relaxed);
  if (device<kDevices&& * blocks> 0) return cudaSuccess;
  int multiprocessors = 0;
  int blocks_of_one = 0;
  cudaError_t error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks_of_one, kKernel, threads, 0);
  if (error != cudaSuccess) return error;
  *blocks = std::max(1, multiprocessors * blocks_of_one);
  if (device < kDevices) known[device].store(*blocks, std::memory_order_relaxed);
  return cudaSuccess;
}

/// Has `kKernels`, of `threads` each, on the current device, so that no launch needs to load one.
template <auto... kKernels>
int LoadKernels(int threads) {
  cudaError_t error = cudaSuccess;
  int blocks = 0;
  static_cast<void>(((error = FillingBlocks<kKernels>(threads, &blocks), error == cudaSuccess) && ...));
  return error;
}

/// Launches `kKernel` with as many blocks as there is work for, `useful_blocks`, or as fill the device.
template <auto kKernel, typename... Args>
int Launch(int64_t useful_blocks, int threads, CudaStreamHandle stream, const Args&... args) {
  if (useful_blocks == 0) return cudaSuccess;
  int blocks = 0;
  if (const cudaError_t error = FillingBlocks<kKernel>(threads, &blocks); error != cudaSuccess) return error;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(std::min<int64_t>(useful_blocks, blocks)));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = static_cast<cudaStream_t>(stream);
  return cudaLaunchKernelEx(&config, kKernel, args...);
}

}  // namespace shardstep::cuda

#endif  // SHARDSTEP_OPTIMIZER_CUDA_LAUNCH_CUH_
