#include "shardstep/optimizer/cuda_update.cuh"

namespace shardstep::cuda {

int LoadLion() { return LoadUpdates<LionRule>(); }

int LaunchLion(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream) {
  return LaunchUpdate<LionRule>(args, sum, stream);
}

}  // namespace shardstep::cuda
