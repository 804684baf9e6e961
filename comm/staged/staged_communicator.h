#ifndef SHARDSTEP_COMM_STAGED_STAGED_COMMUNICATOR_H_
#define SHARDSTEP_COMM_STAGED_STAGED_COMMUNICATOR_H_

#include <memory>

#include "absl/time/time.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/comm/memory.h"
#include "shardstep/comm/rendezvous.h"

namespace shardstep {

struct StagedOptions {
  /// Slots of the ring on the device that slices land in, each as large as the largest bucket. At least 1.
  int landing_buckets = 3;
  /// Of every meeting inside Create and Allocate.
  absl::Duration setup_deadline = absl::Minutes(10);
};

/// Collective. A communicator of the host, `inner` (shared memory, MPI, ...), for arrays on a GPU: what leaves is
/// copied into inner's arenas, what arrives is copied onto the device. For clusters without NCCL, and for several ranks
/// that share one GPU. Nothing is computed on the way: the bits are inner's.
///
/// Slices are transient, this rank's own among them; gradients are free as soon as they have left the device. Every
/// rank has weights of its own on the device, and inner's besides on the host. Joins hosts if inner does. Streams must
/// be CudaStreams of `device`; AllReduceSmall's `reduction` is memory of the device (or of the host). Not for captures.
/// A rank alone copies nothing and calls inner for Abort, AsyncStatus and SetAway only.
///
/// No call blocks the caller after Allocate. Works of the host do what blocks, in five lanes, each with a thread and
/// streams of its own (staged_lane.h):
///   leaving     inner has let go of what it was given before; gradients to the host, the own shard to its slot
///   arriving    inner's Exchange and AwaitSlices, slices to the device, inner's Release
///   publishing  this rank's shard of the weights to the host, inner's Publish
///   published   inner's AwaitPublished, the other ranks' shards to the device
///   reducing    the reduction to the host, inner's AllReduceSmall, and back
/// So no work waits for work behind it, on any rank, if every rank issues its operations in the same order, as plans
/// do: the arriving work of exchange n waits for its own leaving work and for the arriving works n of the others; a
/// leaving one for arriving works of earlier exchanges; a published one for the publishing works of all ranks; a
/// publishing one for published works of earlier steps; a reducing one for the same one of the others; and all of them
/// for streams of the caller as far as these had been filled when they were issued. The caller orders the reuse of
/// landing slots (plans do): FailedPrecondition when the Release of a slot's last user has not been issued.
///
/// The first error of any work is that of the communicator and of all streams that it was called with (deadlines,
/// Abort, names of ranks: inner's), though what is enqueued there goes on. A reduction that failed has this rank's part
/// only: its kArrivals is not the number of ranks. As with every communicator, a rank publishes again only when the
/// others have what it published before, proven by an AllReduceSmall or a meeting after their AwaitPublished.
/// Destruction while works are under way aborts inner, so that neither this rank nor others wait for the rest.
///
/// Memory of a rank, bytes per parameter in bf16, S = landing_buckets times the largest bucket: device 2 gradients, 2
/// weights, 2S / parameters landing; host, pinned, 2 gradients and inner's weights (2 per rank, or per host where inner
/// shares them), beside what inner needs to receive. Contributions have no gradients: landing slots are then of fp32
/// slices, and as much as two of them is pinned for what leaves.
///
/// `memory` and `rendezvous`, of the ranks of `inner`, must live as long as the communicator.
absl::StatusOr<std::unique_ptr<Communicator>> CreateStagedCommunicator(const CudaDeviceRef& device, Memory& memory,
                                                                       Rendezvous& rendezvous,
                                                                       std::unique_ptr<Communicator> inner,
                                                                       const StagedOptions& options);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_STAGED_STAGED_COMMUNICATOR_H_
