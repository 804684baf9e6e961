#ifndef SHARDSTEP_OPTIMIZER_CUDA_UPDATE_CUH_
#define SHARDSTEP_OPTIMIZER_CUDA_UPDATE_CUH_

#include "shardstep/optimizer/cuda_launch.cuh"
#include "shardstep/optimizer/cuda_launches.h"
#include "shardstep/optimizer/cuda_update-inl.h"

/// For cuda_update_*.cu, one for each rule, so that compilers share the work.

namespace shardstep::cuda {

template <typename UpdateRule, typename Weights, bool kPlain>
__global__ void __launch_bounds__(kUpdateThreads, 6)
    UpdateKernel(const __grid_constant__ CudaUpdate args, const __grid_constant__ CudaSumSchedule sum, bool aligned) {
  const DeviceMachine machine;
  UpdateThread<UpdateRule, Weights, kPlain, DeviceMachine>(machine, args, sum, aligned)
      .Run(static_cast<int>(threadIdx.x), {blockIdx.x, gridDim.x});
}

template <typename UpdateRule, typename... Weights>
int LoadUpdatesOf() {
  const int error = LoadKernels<UpdateKernel<UpdateRule, Weights, true>...>(kUpdateThreads);
  return error != cudaSuccess ? error : LoadKernels<UpdateKernel<UpdateRule, Weights, false>...>(kUpdateThreads);
}
template <typename UpdateRule>
int LoadUpdates() {
  return LoadUpdatesOf<UpdateRule, Fp32Weights, Fp32MasterWeights, SplitMasterWeights, NoMasterWeights<false>,
                       NoMasterWeights<true>>();
}

template <typename UpdateRule>
int LaunchUpdate(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream) {
  return VisitWeights(args, [&](auto weights) {
    using Weights = decltype(weights);
    const bool aligned = IsAligned(args, sum);
    const int64_t blocks = args.segments.blocks;
    return IsPlain(sum)
               ? Launch<UpdateKernel<UpdateRule, Weights, true>>(blocks, kUpdateThreads, stream, args, sum, aligned)
               : Launch<UpdateKernel<UpdateRule, Weights, false>>(blocks, kUpdateThreads, stream, args, sum, aligned);
  });
}

}  // namespace shardstep::cuda

#endif  // SHARDSTEP_OPTIMIZER_CUDA_UPDATE_CUH_
