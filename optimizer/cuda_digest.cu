#include "shardstep/optimizer/cuda_digest-inl.h"
#include "shardstep/optimizer/cuda_launch.cuh"
#include "shardstep/optimizer/cuda_launches.h"

namespace shardstep::cuda {
namespace {

template <DigestForm kForm>
__global__ void __launch_bounds__(kDigestThreads) DigestKernel(const __grid_constant__ CudaDigest args) {
  DigestBlocks<kForm>(DeviceMachine(), args, int64_t{blockIdx.x} * kDigestThreads + threadIdx.x,
                      int64_t{gridDim.x} * kDigestThreads);
}

}  // namespace

int LoadDigest() {
  return LoadKernels<DigestKernel<DigestForm::kBf16>, DigestKernel<DigestForm::kFp32>,
                     DigestKernel<DigestForm::kWidened>>(kDigestThreads);
}

int LaunchDigest(const CudaDigest& args, CudaStreamHandle stream) {
  constexpr int64_t kElements = kDigestBlock * kDigestThreads;
  const int64_t blocks = (args.elements + kElements - 1) / kElements;
  return VisitForm(args.form, [&](auto form) {
    return Launch<DigestKernel<decltype(form)::value>>(blocks, kDigestThreads, stream, args);
  });
}

}  // namespace shardstep::cuda
