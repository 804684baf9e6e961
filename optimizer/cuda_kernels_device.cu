#include <cuda_runtime.h>

#include <cstdio>

#include "shardstep/optimizer/cuda_kernels.h"
#include "shardstep/optimizer/cuda_launches.h"

namespace shardstep {
namespace {

class DeviceKernels : public CudaKernels {
 public:
  int Load() override {
    int (*const loads[])() = {cuda::LoadAdamW,  cuda::LoadSgd,    cuda::LoadLion, cuda::LoadReduce,
                              cuda::LoadDecide, cuda::LoadDigest, cuda::LoadTwins};
    for (int (*const load)() : loads) {
      if (const int error = load(); error != cudaSuccess) return error;
    }
    return cudaSuccess;
  }
  int Reduce(const CudaReduce& args, const CudaSumSchedule& sum, CudaStreamHandle stream) override {
    return cuda::LaunchReduce(args, sum, stream);
  }
  int Update(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream) override {
    switch (args.kind.rule) {
      case Rule::kAdamW:
        break;
      case Rule::kSgd:
        return cuda::LaunchSgd(args, sum, stream);
      case Rule::kLion:
        return cuda::LaunchLion(args, sum, stream);
    }
    return cuda::LaunchAdamW(args, sum, stream);
  }
  int Contribute(const ContributeWords& words, CudaStreamHandle stream) override {
    return cuda::LaunchContribute(words, stream);
  }
  int Decide(const DecideWords& words, CudaStreamHandle stream) override { return cuda::LaunchDecide(words, stream); }
  int Digest(const CudaDigest& args, CudaStreamHandle stream) override { return cuda::LaunchDigest(args, stream); }
  int ReduceTwin(const CudaReduce& args, const CudaSumSchedule& sum, CudaStreamHandle stream) override {
    return cuda::LaunchReduceTwin(args, sum, stream);
  }
  int UpdateTwin(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream) override {
    return cuda::LaunchUpdateTwin(args, sum, stream);
  }

  const char* Target() override {
    thread_local char target[24];
    int device = 0;
    int major = 0;
    int minor = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
      return "no device";
    }
    std::snprintf(target, sizeof(target), "sm_%d%d", major, minor);
    return target;
  }
};

}  // namespace
}  // namespace shardstep

/// Of the shared object: see CudaKernels.
extern "C" __attribute__((visibility("default"))) shardstep::CudaKernels* shardstep_cuda_kernels() {
  static shardstep::DeviceKernels kernels;
  return &kernels;
}
