#ifndef SHARDSTEP_TESTS_CUDA_HOST_CUDA_KERNELS_H_
#define SHARDSTEP_TESTS_CUDA_HOST_CUDA_KERNELS_H_

#include <cstdint>

#include "shardstep/optimizer/cuda_kernels.h"
#include "shardstep/tests/cuda/fake_cuda.h"

namespace shardstep {

struct HostCudaKernelsOptions {
  /// Of the order of blocks, warps and lanes, none of which may matter.
  uint64_t order_seed = 1;
  /// Thread blocks that fill the device: what a launch has more of is done in strides.
  int filling_blocks = 3;
};

/// The CUDA kernels on the host: the bodies of optimizer/cuda_*-inl.h in loops over blocks, warps and lanes, on streams
/// of a FakeCuda, which must outlive it. Threads: any.
class HostCudaKernels : public CudaKernels {
 public:
  explicit HostCudaKernels(FakeCuda& cuda, const HostCudaKernelsOptions& options = {})
      : cuda_(cuda), options_(options) {}

  int Load() override { return 0; }
  int Reduce(const CudaReduce& args, const CudaSumSchedule& sum, CudaStreamHandle stream) override;
  int Update(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream) override;
  int Contribute(const ContributeWords& words, CudaStreamHandle stream) override;
  int Decide(const DecideWords& words, CudaStreamHandle stream) override;
  int Digest(const CudaDigest& args, CudaStreamHandle stream) override;
  int ReduceTwin(const CudaReduce& args, const CudaSumSchedule& sum, CudaStreamHandle stream) override;
  int UpdateTwin(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream) override;
  const char* Target() override { return "host"; }

 private:
  FakeCuda& cuda_;
  const HostCudaKernelsOptions options_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_CUDA_HOST_CUDA_KERNELS_H_
