#ifndef SHARDSTEP_COMM_NCCL_NCCL_COMMUNICATOR_H_
#define SHARDSTEP_COMM_NCCL_NCCL_COMMUNICATOR_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/comm/memory.h"
#include "shardstep/comm/nccl/nccl_api.h"
#include "shardstep/comm/rendezvous.h"

namespace shardstep {

/// How slices reach their owners.
enum class NcclExchange {
  kExact,         ///< every rank's gradients as they are, all-to-all into a landing ring; the owner adds them in fp32
  kReduceScatter  ///< NCCL adds them on the way, rounding to the gradients' dtype at every hop: fewer bytes, other bits
};

struct NcclOptions {
  /// Of every operation on the device and of the creation. Positive.
  absl::Duration wait_deadline = absl::Seconds(60);
  /// Of every meeting inside Create and Allocate. Positive.
  absl::Duration setup_deadline = absl::Minutes(10);
  NcclExchange exchange = NcclExchange::kExact;
  /// Slots of the ring that slices land in, each as large as the largest bucket. At least 1.
  int landing_buckets = 3;
  /// What messages call the ranks, where they are ranks of a larger job; empty: 0, 1, ...
  std::vector<int> rank_names;
};

/// Collective. The communicator of ranks with a GPU each, over NCCL: slices are transient, weights exist once per rank,
/// and it joins hosts (takes contributions and weights that exist). Streams must be CudaStreams of `device`; its
/// arenas, ring and words come from `memory`. AllReduceSmall's `reduction` is memory of the device.
///
/// No call blocks the host after Allocate. A thread of its own watches: NCCL's asynchronous errors, the deadlines of
/// what was enqueued, and whether another rank has failed; then it aborts NCCL, so that streams go on, and AsyncStatus
/// says why. What a stream reads after that is garbage; a reduction that was cut off shows by its kArrivals.
///
/// `rendezvous` is the communicator's alone from here on, and outlives it: the unique id travels over it, and its
/// watching thread waits in it for the failure of others. FailedPrecondition names two ranks whose options differ, or
/// that use the same GPU. Destruction is not collective and ends what is under way.
absl::StatusOr<std::unique_ptr<Communicator>> CreateNcclCommunicator(NcclApi& nccl, const CudaDeviceRef& device,
                                                                     Memory& memory, Rendezvous& rendezvous,
                                                                     const NcclOptions& options);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_NCCL_NCCL_COMMUNICATOR_H_
