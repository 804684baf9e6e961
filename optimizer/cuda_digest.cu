#include "shardstep/optimizer/cuda_digest-inl.h"
#include "shardstep/optimizer/cuda_launch.cuh"
#include "shardstep/optimizer/cuda_launches.h"

namespace shardstep::cuda {
namespace {

template <DigestForm kForm>
__global__ void __launch_bounds__(kDigestThreads) DigestKernel(const __grid_constant__ CudaDigest args, bool aligned) {
  const DeviceMachine machine;
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  DigestWarp<kForm, DeviceMachine>(machine, args, aligned)
      .Run(int64_t{blockIdx.x} * kDigestWarps + warp, int64_t{gridDim.x} * kDigestWarps);
}

}  // namespace

int LoadDigest() {
  return LoadKernels<DigestKernel<DigestForm::kBf16>, DigestKernel<DigestForm::kFp32>,
                     DigestKernel<DigestForm::kWidened>>(kDigestThreads);
}

int LaunchDigest(const CudaDigest& args, CudaStreamHandle stream) {
  return VisitForm(args.form, [&](auto form) {
    return Launch<DigestKernel<decltype(form)::value>>(DigestGrid(args), kDigestThreads, stream, args,
                                                       IsAligned(args.values));
  });
}

}  // namespace shardstep::cuda
