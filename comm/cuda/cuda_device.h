#ifndef SHARDSTEP_COMM_CUDA_CUDA_DEVICE_H_
#define SHARDSTEP_COMM_CUDA_CUDA_DEVICE_H_

#include <string>

#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/comm/rendezvous.h"

namespace shardstep {

/// Which device a rank wants.
struct CudaDeviceRequest {
  /// As CUDA numbers the devices that this process sees. Unset: by local rank, the index of this rank among those of
  /// its host; or the one that there is, where the launcher shows each rank its own.
  absl::optional<int> ordinal;
  /// Equal for ranks of one host (shm/host_id.h).
  std::string host_id;
  /// Ranks of a host may use the same device (NCCL refuses that; for tests on one). Equal on every rank.
  bool allow_sharing = false;
  absl::Duration deadline = absl::Minutes(10);
};

/// Collective; allocates nothing. The device of this rank, current on the calling thread; or the same error on every
/// rank, which names ranks and devices:
///   NotFound             a rank without devices, or without a driver that this CUDA can use
///   InvalidArgument      an ordinal that there is not
///   FailedPrecondition   fewer devices than ranks of a host, two ranks with one device unless sharing is allowed, or
///                        ranks of a host with devices of different model or compute capability
absl::StatusOr<CudaDeviceRef> ChooseCudaDevice(CudaApi& api, Rendezvous& rendezvous, const CudaDeviceRequest& request);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_CUDA_CUDA_DEVICE_H_
