#ifndef SHARDSTEP_RUNTIME_CUDA_BACKEND_H_
#define SHARDSTEP_RUNTIME_CUDA_BACKEND_H_

#include <memory>
#include <string>

#include "shardstep/comm/status.h"
#include "shardstep/runtime/compute_device.h"

namespace shardstep {

class CudaApi;
class CudaKernels;
struct CudaDeviceRef;

/// What the shared object of the CUDA backend, libshardstep_cuda.so, holds: the runtime's calls, and the kernels. Both
/// live for ever.
struct CudaBackend {
  CudaApi* api = nullptr;
  CudaKernels* kernels = nullptr;
};

/// Loads it from `path`, or if empty from where the loader finds libshardstep_cuda.so (the program's run path). That
/// there is a device, and a driver, is not looked at. NotFound: no such file, as when it was built without CUDA
/// (SHARDSTEP_WITH_CUDA); FailedPrecondition: of another version, or no such library at all.
absl::StatusOr<CudaBackend> GetCudaBackend(const std::string& path = "");

/// One GPU as a rank's optimizer computes on it. `compute_stream` is the trainer's cudaStream_t, which outlives the
/// device: not the legacy default stream. A step on it never blocks the host but in FinishStep, and can be captured
/// into a CUDA graph (ShardedOptimizer::BeginCapture).
absl::StatusOr<std::unique_ptr<ComputeDevice>> CreateCudaComputeDevice(const CudaBackend& backend,
                                                                       const CudaDeviceRef& device,
                                                                       void* compute_stream);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_CUDA_BACKEND_H_
