#include "shardstep/optimizer/cuda_update.cuh"

namespace shardstep::cuda {

int LoadAdamW() { return LoadUpdates<AdamWRule>(); }

int LaunchAdamW(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream) {
  return LaunchUpdate<AdamWRule>(args, sum, stream);
}

}  // namespace shardstep::cuda
