#ifndef SHARDSTEP_COMM_STAGED_STAGED_LAYOUT_H_
#define SHARDSTEP_COMM_STAGED_STAGED_LAYOUT_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/staged/staged_lane.h"

namespace shardstep {

/// Where the data of a staged communicator lies, on the device and on the host, and what is copied when. Addresses and
/// integers only; nothing is read.
struct StagedLayout {
  int rank = 0;
  int world_size = 1;
  std::vector<BucketExtent> buckets;
  int contributions = 0;  ///< as in ArenaRequest

  std::byte* gradients = nullptr;  ///< device
  std::byte* weights = nullptr;    ///< device
  std::byte* landing = nullptr;    ///< device: all slots
  int64_t landing_slot_bytes = 0;

  std::byte* host_gradients = nullptr;  ///< inner's arena, in which buckets lie as on the device
  std::byte* host_weights = nullptr;    ///< likewise
  std::byte* staging = nullptr;         ///< what contributions leave from: all slots
  int64_t staging_slot_bytes = 0;

  /// Of the largest bucket: slices of all ranks; ResourceExhausted when they cannot be counted.
  absl::StatusOr<int64_t> LandingSlotBytes() const;
  /// Of the largest bucket: contributions for all ranks; 0 without contributions.
  absl::StatusOr<int64_t> StagingSlotBytes() const;

  const BucketExtent& bucket(int b) const { return buckets[static_cast<size_t>(b)]; }
  /// This rank's gradients of bucket `b` on the device.
  Slice OwnGradients(int b) const;
  /// Where the owner's shard begins.
  std::byte* OwnWeights(int b) const { return weights + WeightOffset(b, rank); }

  /// What arrives from an exchange of `mine` (OwnGradients, or the contributions) in landing slot `slot`. Of one rank:
  /// `mine` itself.
  std::vector<Slice> Slices(int b, absl::Span<const Slice> mine, int64_t slot) const;
  /// Where `mine` is on the host: in staging slot `slot`, or in inner's arena.
  std::vector<Slice> OnHost(int b, absl::Span<const Slice> mine, int64_t slot) const;

  /// `mine` to `on_host`, but for this rank's own shards: those go to where `slices` says.
  std::vector<StagedCopy> Leaving(int b, absl::Span<const Slice> mine, absl::Span<const Slice> on_host,
                                  absl::Span<const Slice> slices) const;
  /// `arrived`, inner's slices, to `slices`.
  std::vector<StagedCopy> Arriving(int b, absl::Span<const Slice> arrived, absl::Span<const Slice> slices) const;
  /// This rank's shard to the host.
  std::vector<StagedCopy> Publishing(int b) const;
  /// The other ranks' shards to the device.
  std::vector<StagedCopy> Published(int b) const;

 private:
  int64_t WeightShardBytes(int b) const { return bucket(b).shard_elements * SizeBytes(bucket(b).weight_dtype); }
  int64_t WeightOffset(int b, int owner) const { return bucket(b).weight_begin_byte + owner * WeightShardBytes(b); }
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_STAGED_STAGED_LAYOUT_H_
