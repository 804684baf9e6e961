#ifndef SHARDSTEP_TOOLS_BENCH_CUDA_WIRE_H_
#define SHARDSTEP_TOOLS_BENCH_CUDA_WIRE_H_

#include <cstdint>
#include <memory>

#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/comm/memory.h"
#include "shardstep/comm/nccl/nccl_api.h"
#include "shardstep/comm/rendezvous.h"

namespace shardstep {

/// The floor of what travels between GPUs: as many bytes as a step must move, without any step.
class CudaWire {
 public:
  virtual ~CudaWire() = default;
  /// Collective. Enqueues that this rank sends `bytes` and receives as many, in equal parts to and from every other
  /// rank. InvalidArgument when that is negative or more than it was made for.
  virtual absl::Status Exchange(int64_t bytes) = 0;
};

/// What all of them work on, and outlives them. `memory` gives twice `largest_bytes` of the device, and of the host's
/// for staging.
struct CudaWireRequest {
  CudaStream* stream = nullptr;
  Memory* memory = nullptr;
  int64_t largest_bytes = 0;
};

/// Collective. NCCL's messages, all pairs of ranks at once, by a communicator of its own.
absl::StatusOr<std::unique_ptr<CudaWire>> CreateNcclWire(const CudaWireRequest& request, NcclApi& nccl,
                                                         Rendezvous& rendezvous);

/// Copies between the device and pinned memory of its host, both ways at once: what staging cannot do without. What
/// hosts do among themselves is not in it.
absl::StatusOr<std::unique_ptr<CudaWire>> CreateStagingWire(const CudaWireRequest& request);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_CUDA_WIRE_H_
