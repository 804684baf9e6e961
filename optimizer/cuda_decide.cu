#include "shardstep/optimizer/cuda_decide-inl.h"
#include "shardstep/optimizer/cuda_launch.cuh"
#include "shardstep/optimizer/cuda_launches.h"

namespace shardstep::cuda {
namespace {

// Shared memory as bytes, because the words have initializers.
__global__ void __launch_bounds__(kWarpLanes) ContributeKernel(const __grid_constant__ ContributeWords words) {
  __shared__ alignas(ContributeShared) unsigned char shared[sizeof(ContributeShared)];
  Contribute(DeviceMachine(), words, reinterpret_cast<ContributeShared*>(shared));
}

__global__ void __launch_bounds__(kWarpLanes) DecideKernel(const __grid_constant__ DecideWords words) {
  __shared__ alignas(DecideShared) unsigned char shared[sizeof(DecideShared)];
  Decide(DeviceMachine(), words, reinterpret_cast<DecideShared*>(shared));
}

}  // namespace

int LoadDecide() { return LoadKernels<ContributeKernel, DecideKernel>(kWarpLanes); }

int LaunchContribute(const ContributeWords& words, CudaStreamHandle stream) {
  return Launch<ContributeKernel>(1, kWarpLanes, stream, words);
}

int LaunchDecide(const DecideWords& words, CudaStreamHandle stream) {
  return Launch<DecideKernel>(1, kWarpLanes, stream, words);
}

}  // namespace shardstep::cuda
