#ifndef SHARDSTEP_OPTIMIZER_CUDA_LAUNCHES_H_
#define SHARDSTEP_OPTIMIZER_CUDA_LAUNCHES_H_

#include "shardstep/optimizer/cuda_kernels.h"

/// The launches of this room's .cu files, which cuda_kernels_device.cu gathers; see CudaKernels.

namespace shardstep::cuda {

int LoadAdamW();
int LoadSgd();
int LoadLion();
int LoadReduce();
int LoadDecide();
int LoadDigest();
int LoadTwins();
int LaunchAdamW(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream);
int LaunchSgd(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream);
int LaunchLion(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream);
int LaunchReduce(const CudaReduce& args, const CudaSumSchedule& sum, CudaStreamHandle stream);
int LaunchContribute(const ContributeWords& words, CudaStreamHandle stream);
int LaunchDecide(const DecideWords& words, CudaStreamHandle stream);
int LaunchDigest(const CudaDigest& args, CudaStreamHandle stream);
int LaunchReduceTwin(const CudaReduce& args, const CudaSumSchedule& sum, CudaStreamHandle stream);
int LaunchUpdateTwin(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream);

}  // namespace shardstep::cuda

#endif  // SHARDSTEP_OPTIMIZER_CUDA_LAUNCHES_H_
