#ifndef SHARDSTEP_RUNTIME_CUDA_BACKEND_H_
#define SHARDSTEP_RUNTIME_CUDA_BACKEND_H_

#include <memory>

#include "shardstep/comm/status.h"
#include "shardstep/runtime/compute_device.h"

namespace shardstep {

class CudaApi;
class CudaKernels;
struct CudaDeviceRef;

/// What the shared object of the CUDA backend holds: the runtime's calls, and the kernels. Both live for ever.
struct CudaBackend {
  CudaApi* api = nullptr;
  CudaKernels* kernels = nullptr;
};

/// The one that this library was built with. Unimplemented: it was built without (SHARDSTEP_WITH_CUDA). That there is a
/// device, and a driver, is not looked at.
absl::StatusOr<CudaBackend> GetCudaBackend();

/// One GPU as a rank's optimizer computes on it. `compute_stream` is the trainer's cudaStream_t, which outlives the
/// device: not the legacy default stream. A step on it never blocks the host but in FinishStep, and can be captured
/// into a CUDA graph (ShardedOptimizer::BeginCapture).
absl::StatusOr<std::unique_ptr<ComputeDevice>> CreateCudaComputeDevice(const CudaBackend& backend,
                                                                       const CudaDeviceRef& device,
                                                                       void* compute_stream);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_CUDA_BACKEND_H_
