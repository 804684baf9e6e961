#include "shardstep/optimizer/cuda_launch.cuh"
#include "shardstep/optimizer/cuda_launches.h"
#include "shardstep/optimizer/cuda_reduce-inl.h"

namespace shardstep::cuda {
namespace {

template <bool kPlain>
__global__ void __launch_bounds__(kReduceThreads, 8)
    ReduceKernel(const __grid_constant__ CudaReduce args, const __grid_constant__ CudaSumSchedule sum, bool aligned) {
  __shared__ ReduceShared<kPlain> shared;
  const DeviceMachine machine;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpLanes;
  BeginReduce(thread, &shared);
  __syncthreads();
  ReduceWarp<kPlain, DeviceMachine>(machine, args, sum, aligned, warp, &shared)
      .Run(int64_t{blockIdx.x} * kReduceWarps + warp, int64_t{gridDim.x} * kReduceWarps);
  __syncthreads();
  EndReduce(machine, thread, args, &shared);
}

}  // namespace

int LoadReduce() { return LoadKernels<ReduceKernel<true>, ReduceKernel<false>>(kReduceThreads); }

int LaunchReduce(const CudaReduce& args, const CudaSumSchedule& sum, CudaStreamHandle stream) {
  const bool aligned = IsAligned(args, sum);
  const int64_t blocks = (args.segments.blocks + kReduceWarps - 1) / kReduceWarps;
  return IsPlain(sum) ? Launch<ReduceKernel<true>>(blocks, kReduceThreads, stream, args, sum, aligned)
                      : Launch<ReduceKernel<false>>(blocks, kReduceThreads, stream, args, sum, aligned);
}

}  // namespace shardstep::cuda
