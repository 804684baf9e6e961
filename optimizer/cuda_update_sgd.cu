#include "shardstep/optimizer/cuda_update.cuh"

namespace shardstep::cuda {

int LoadSgd() {
  const int error = LoadUpdates<SgdRule<true>>();
  return error != cudaSuccess ? error : LoadUpdates<SgdRule<false>>();
}

int LaunchSgd(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream) {
  return args.kind.momentum ? LaunchUpdate<SgdRule<true>>(args, sum, stream)
                            : LaunchUpdate<SgdRule<false>>(args, sum, stream);
}

}  // namespace shardstep::cuda
