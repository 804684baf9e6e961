#include "shardstep/optimizer/cuda_launch.cuh"
#include "shardstep/optimizer/cuda_launches.h"
#include "shardstep/optimizer/cuda_twins-inl.h"

namespace shardstep::cuda {
namespace {

__global__ void __launch_bounds__(kReduceThreads)
    ReduceTwinKernel(const __grid_constant__ CudaReduce args, const __grid_constant__ CudaSumSchedule sum) {
  const DeviceMachine machine;
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  ReduceTwinWarp<DeviceMachine>(machine, args, sum)
      .Run(int64_t{blockIdx.x} * kReduceWarps + warp, int64_t{gridDim.x} * kReduceWarps);
}

__global__ void __launch_bounds__(kUpdateThreads)
    UpdateTwinKernel(const __grid_constant__ CudaUpdate args, const __grid_constant__ CudaSumSchedule sum) {
  const DeviceMachine machine;
  UpdateTwinThread<DeviceMachine>(machine, args, sum).Run(static_cast<int>(threadIdx.x), {blockIdx.x, gridDim.x});
}

}  // namespace

int LaunchReduceTwin(const CudaReduce& args, const CudaSumSchedule& sum, CudaStreamHandle stream) {
  if (!IsAligned(args, sum)) return cudaErrorMisalignedAddress;
  const int64_t blocks = (args.segments.blocks + kReduceWarps - 1) / kReduceWarps;
  return Launch<ReduceTwinKernel>(blocks, kReduceThreads, stream, args, sum);
}

int LaunchUpdateTwin(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream) {
  if (!IsAligned(args, sum)) return cudaErrorMisalignedAddress;
  return Launch<UpdateTwinKernel>(args.segments.blocks, kUpdateThreads, stream, args, sum);
}

}  // namespace shardstep::cuda
