#ifndef SHARDSTEP_COMM_COMMUNICATOR_H_
#define SHARDSTEP_COMM_COMMUNICATOR_H_

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "shardstep/comm/buffer.h"
#include "shardstep/comm/dtype.h"
#include "shardstep/comm/slice.h"
#include "shardstep/comm/small_reduction.h"
#include "shardstep/comm/status.h"
#include "shardstep/comm/stream.h"

namespace shardstep {

/// Where one bucket lies: `world_size` shards of `shard_elements` each, rank 0's first, in the gradient arena and in
/// the weight arena. Offsets are multiples of 64 bytes.
struct BucketExtent {
  int64_t shard_elements = 0;
  DType gradient_dtype = DType::kBf16;
  DType weight_dtype = DType::kBf16;
  int64_t gradient_begin_byte = 0;
  int64_t weight_begin_byte = 0;
};

/// What Allocate makes, and what the caller brings. Equal on every rank, but for addresses.
struct ArenaRequest {
  absl::Span<const BucketExtent> buckets;
  /// Every rank has weights of its own, and its Destinations are the copies of all ranks. Otherwise ranks of a host see
  /// one copy. No difference where ranks share no memory.
  bool private_weights = false;
  /// Weights that exist already, shared with ranks outside of this communicator (the weights of its host). Empty: made.
  BufferView weights;
  /// What each rank sends to each owner in one exchange: 0, the gradients of its own arena; else as many contributions,
  /// given to each Exchange, and no gradient arena is made.
  int contributions = 0;
};

/// What a plan must know about a backend. Data, so that no scheduler asks which backend it runs on.
struct CommunicatorTraits {
  /// Slices stay readable until Release (shared memory: they are the peers' own gradients). Otherwise they lie in a
  /// landing ring and must be reduced into the accumulator and released before `landing_buckets` more exchanges.
  bool slices_persist = true;
  int landing_buckets = 0;
  /// Exchange needs a stream of its own; otherwise it is issued on the caller's stream.
  bool separate_exchange_stream = false;
  /// Takes `contributions`, and `weights` that exist: fit to join the hosts of a job.
  bool joins_hosts = false;
  /// All of its memory is there from Allocate on: gradients of frozen buckets, and LandingBytes. Otherwise what is
  /// never used costs nothing.
  bool memory_at_once = false;
  /// Its operations may be captured into a CUDA graph.
  bool captures = false;
  /// What is rounded on the way, by the name that records use; nullptr: nothing is.
  const char* inexact_mode = nullptr;
};

/// Moves gradients to the owners of shards and weights back to everyone, and nothing else: it never adds gradients up.
///
/// Every data operation is stream-ordered: OK means enqueued, and the operation is complete for whatever is enqueued
/// later on that stream. Addresses are fixed by Allocate. Per bucket and micro-step the order on every rank is
///   Exchange -> AwaitSlices -> (kernels read slices) -> Release;  the producer: AwaitReleased -> next gradients
/// and per bucket and step: (kernels write Destinations) -> Publish -> AwaitPublished -> (the forward reads weights).
/// Exchanges are issued in the same bucket order on every rank. What awaits an operation of its own number also awaits
/// this rank's part of it, on whichever of its streams that was enqueued, if it was enqueued before. `micro_step` and
/// `step` count from 0 since creation.
///
/// A wait that passes its deadline fails the stream with DeadlineExceeded, naming operation, bucket, micro-step or step
/// and the ranks that did not arrive; after Abort on any rank every wait on every rank ends with Aborted naming that
/// rank and its reason. Threads: data operations from one thread at a time per stream; Abort, SetAway and AsyncStatus
/// from any thread. Every backend passes tests/comm/communicator_contract.h.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int world_size() const = 0;
  virtual CommunicatorTraits traits() const = 0;

  /// Collective, once. Makes this rank's gradient arena and the weight arena, zero-filled. ResourceExhausted names what
  /// did not fit, before anything is written.
  virtual absl::Status Allocate(const ArenaRequest& request) = 0;
  /// What Allocate would take besides the arenas, where memory_at_once.
  virtual int64_t LandingBytes(const ArenaRequest& /*request*/) const { return 0; }
  /// This rank's own gradients, the whole arena.
  virtual BufferView gradients() = 0;
  /// The whole arena as this rank reads it.
  virtual BufferView weights() = 0;

  /// This rank's gradients of `bucket` are complete (in stream order): lets the owners have their slices.
  /// `contributions`: as many as Allocate was told, each with the bucket's shards of all ranks at `data`, of any dtype,
  /// the same ones on every rank but for `rank`; their memory must stay as it is until AwaitReleased.
  virtual absl::Status Exchange(int bucket, int64_t micro_step, absl::Span<const Slice> contributions,
                                Stream& stream) = 0;
  /// Later work on `stream` may read slices(bucket, micro_step).
  virtual absl::Status AwaitSlices(int bucket, int64_t micro_step, Stream& stream) = 0;
  /// This rank's shard of `bucket` from every rank, in rank order. With contributions: each rank's, in the order of its
  /// Exchange; `rank` is then the communicator's and all else as in this rank's own contributions, which the caller
  /// translates. The span is there from Exchange on, what it points to between AwaitSlices and Release.
  virtual absl::Span<const Slice> slices(int bucket, int64_t micro_step) = 0;
  /// This rank has read its slices of `bucket` (in stream order).
  virtual absl::Status Release(int bucket, int64_t micro_step, Stream& stream) = 0;
  /// Later work on `stream` may overwrite this rank's gradients or contributions of `bucket`: this rank has released
  /// `micro_step`, and so has every other owner, or it has a copy.
  virtual absl::Status AwaitReleased(int bucket, int64_t micro_step, Stream& stream) = 0;

  /// In place; `reduction` must live until the stream has passed it. Completion proves that every rank has come here.
  virtual absl::Status AllReduceSmall(SmallReduction* reduction, Stream& stream) = 0;

  /// Where the owner writes its shard of `bucket`, in the bucket's weight dtype: one address per copy that it has to
  /// fill, its own first.
  virtual absl::Span<void* const> Destinations(int bucket) = 0;
  /// This rank's shard of `bucket` is written to all destinations (in stream order).
  virtual absl::Status Publish(int bucket, int64_t step, Stream& stream) = 0;
  /// Later work on `stream` may read all weights of `bucket` as of `step`, and overwrite this rank's shard of them.
  virtual absl::Status AwaitPublished(int bucket, int64_t step, Stream& stream) = 0;

  /// Ends every present and future wait of all ranks with Aborted naming this rank and `reason`, whose CauseOf is that
  /// of `reason`. Idempotent: the first reason of the job wins.
  virtual void Abort(const absl::Status& reason) = 0;
  /// All that was enqueued is known to have finished: later waits for it are none (captures into graphs).
  virtual void Settle() {}
  /// OK, or why the communicator is dead.
  virtual absl::Status AsyncStatus() const = 0;

  /// This rank will not take part for at most `duration` (an evaluation, a save): while any rank is away, no deadline
  /// of any rank runs. Zero ends it.
  virtual void SetAway(absl::Duration duration) = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_COMMUNICATOR_H_
