#include "shardstep/optimizer/cuda_launch.cuh"
#include "shardstep/optimizer/cuda_launches.h"
#include "shardstep/optimizer/cuda_twins-inl.h"

namespace shardstep::cuda {
namespace {

template <bool kPlain>
__global__ void __launch_bounds__(kReduceThreads, 8)
    ReduceTwinKernel(const __grid_constant__ CudaReduce args, const __grid_constant__ CudaSumSchedule sum) {
  const DeviceMachine machine;
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  ReduceTwinWarp<kPlain, DeviceMachine>(machine, args, sum)
      .Run(int64_t{blockIdx.x} * kReduceWarps + warp, int64_t{gridDim.x} * kReduceWarps);
}

template <bool kPlain>
__global__ void __launch_bounds__(kUpdateThreads, 6)
    UpdateTwinKernel(const __grid_constant__ CudaUpdate args, const __grid_constant__ CudaSumSchedule sum) {
  const DeviceMachine machine;
  UpdateTwinThread<kPlain, DeviceMachine>(machine, args, sum)
      .Run(static_cast<int>(threadIdx.x), {blockIdx.x, gridDim.x});
}

}  // namespace

int LoadTwins() {
  const int error = LoadKernels<ReduceTwinKernel<true>, ReduceTwinKernel<false>>(kReduceThreads);
  return error != cudaSuccess ? error : LoadKernels<UpdateTwinKernel<true>, UpdateTwinKernel<false>>(kUpdateThreads);
}

int LaunchReduceTwin(const CudaReduce& args, const CudaSumSchedule& sum, CudaStreamHandle stream) {
  if (!IsAligned(args, sum)) return cudaErrorMisalignedAddress;
  const int64_t blocks = (args.segments.blocks + kReduceWarps - 1) / kReduceWarps;
  return IsPlain(sum) ? Launch<ReduceTwinKernel<true>>(blocks, kReduceThreads, stream, args, sum)
                      : Launch<ReduceTwinKernel<false>>(blocks, kReduceThreads, stream, args, sum);
}

int LaunchUpdateTwin(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream) {
  if (!IsAligned(args, sum)) return cudaErrorMisalignedAddress;
  const int64_t blocks = args.segments.blocks;
  return IsPlain(sum) ? Launch<UpdateTwinKernel<true>>(blocks, kUpdateThreads, stream, args, sum)
                      : Launch<UpdateTwinKernel<false>>(blocks, kUpdateThreads, stream, args, sum);
}

}  // namespace shardstep::cuda
