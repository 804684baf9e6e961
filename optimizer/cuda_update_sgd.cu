#include "shardstep/optimizer/cuda_update.cuh"

namespace shardstep::cuda {

int LaunchSgd(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream) {
  return args.kind.momentum ? LaunchUpdate<SgdRule<true>>(args, sum, stream)
                            : LaunchUpdate<SgdRule<false>>(args, sum, stream);
}

}  // namespace shardstep::cuda
