#ifndef SHARDSTEP_COMM_NCCL_NCCL_COMMUNICATOR_H_
#define SHARDSTEP_COMM_NCCL_NCCL_COMMUNICATOR_H_

#include <functional>
#include <memory>
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
  /// Slots of the ring that slices land in, each as large as the largest bucket. At least 2.
  int landing_buckets = 3;
  /// How often the ranks' watching threads meet: so long may news of a failure take. Positive.
  absl::Duration heartbeat = absl::Milliseconds(200);
  /// What messages call the ranks, where they are ranks of a larger job; empty: 0, 1, ...
  std::vector<int> rank_names;
  /// The failure of another level of the same job, asked for once per heartbeat: it ends this one. May be empty.
  std::function<absl::Status()> other_failure;
  /// Called once, from the watching thread, when this communicator fails or hears of a failure, in the words that other
  /// ranks get: they name the rank. May be empty.
  std::function<void(const absl::Status&)> on_failure;
  /// For how much longer a rank is away from another level of the same job, asked for once per heartbeat: no deadline
  /// of any rank runs here either. May be empty.
  std::function<absl::Duration()> other_away;
  /// Called from the watching thread after a meeting: for how much longer a rank is away from this level, but for what
  /// other_away said. Zero: none is. May be empty.
  std::function<void(absl::Duration)> on_away;
};

/// Collective. The communicator of ranks with a GPU each, over NCCL: slices are transient, weights exist once per rank,
/// and with kExact it joins hosts (takes contributions and weights that exist). Streams must be CudaStreams of
/// `device`, else InvalidArgument; its arenas, ring and words come from `memory`. AllReduceSmall's `reduction` is
/// memory of the device.
///
/// All that NCCL does is enqueued on one stream of the communicator's own, which waits for the caller's by events:
/// Exchange and Publish hold up no stream of the caller. NCCL matches operations by the order of their issue, so that
/// has to be the same on every rank, of Exchange, AllReduceSmall and Publish together. Calls that await wait for what
/// was enqueued before them: FailedPrecondition when that is not their own operation. The own slice is the own memory;
/// the others lie in a ring of `landing_buckets` slots, each for the slices that all ranks send of the largest bucket:
/// exchange number n lands in slot n mod landing_buckets, and does not wait for the release of the exchange before
/// (CommunicatorTraits: the plan does).
///
/// No call blocks the host after Allocate, but while NCCL itself is not ready with a call, as when it makes a
/// connection that it had no use for before. A thread of its own watches: once per heartbeat it asks NCCL for
/// asynchronous errors, the device for what it has passed, and meets the watching threads of the other ranks in
/// `rendezvous`. When any rank has aborted or failed, or an operation has not passed `wait_deadline` after a rank's
/// stream came to it, every rank aborts NCCL, so that streams go on, and AsyncStatus and the status of every stream
/// that this communicator was used on say why. What a stream reads after that is garbage; a reduction that was cut off
/// shows by its kArrivals. So a deadline ends the communicator, on all ranks with the same words. A process that is
/// stopped is noticed by its heartbeat, 10 s after the deadline. As news take their time, ranks that fail at the same
/// moment may each keep their own reason.
///
/// `rendezvous` is the communicator's alone from here on, and outlives it; not one of a GroupRendezvous, whose groups
/// meet in lock-step. FailedPrecondition names two ranks whose
/// options or NCCL differ, or that use the same GPU. With one rank NCCL is not called at all.
///
/// Destruction is not collective: it ends what is under way, and otherwise takes leave, waiting up to 5 s for the
/// others' heartbeat. Whoever needs a rank that has left gets Aborted "rank 2 has left".
///
/// Operations may be captured into a CUDA graph. Launches of the graph are watched by heartbeats and NCCL's errors, and
/// end with a failure like all else; but no deadline runs for them, as it needs events that are recorded outside.
absl::StatusOr<std::unique_ptr<Communicator>> CreateNcclCommunicator(NcclApi& nccl, const CudaDeviceRef& device,
                                                                     Memory& memory, Rendezvous& rendezvous,
                                                                     const NcclOptions& options);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_NCCL_NCCL_COMMUNICATOR_H_
