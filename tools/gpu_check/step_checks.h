#ifndef SHARDSTEP_TOOLS_GPU_CHECK_STEP_CHECKS_H_
#define SHARDSTEP_TOOLS_GPU_CHECK_STEP_CHECKS_H_

#include <string>

#include "absl/time/time.h"
#include "shardstep/tools/gpu_check/gpu_trainer.h"

namespace shardstep::gpu_check {

/// Whole steps of one rank. Each is OK with what was seen, or an error that says what was not as it should be.

/// The digests of a run of one rank on the CPUs of this host.
absl::StatusOr<std::string> TrainOnHost(const Training& training);
/// The same on a GPU, one rank.
absl::StatusOr<std::string> TrainOnCuda(const Training& training, const CudaBackend& backend,
                                        const CudaDeviceRef& device);

/// Steps by a CUDA graph, captured once and replayed with another learning rate each time, one of them skipped, have
/// the bits of steps without, and of the CPU's.
absl::StatusOr<std::string> CheckGraph(const Training& training, const CudaBackend& backend,
                                       const CudaDeviceRef& device);

/// No call of CUDA between a step's first GradientWritable and FinishStep blocks the host, and a step that is enqueued
/// behind work which does not end returns all the same; `patience` is how long that may take.
absl::StatusOr<std::string> CheckAsync(const Training& training, const CudaBackend& backend,
                                       const CudaDeviceRef& device, absl::Duration patience = absl::Seconds(30));

}  // namespace shardstep::gpu_check

#endif  // SHARDSTEP_TOOLS_GPU_CHECK_STEP_CHECKS_H_
