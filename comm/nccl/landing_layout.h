#ifndef SHARDSTEP_COMM_NCCL_LANDING_LAYOUT_H_
#define SHARDSTEP_COMM_NCCL_LANDING_LAYOUT_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/nccl/nccl_communicator.h"
#include "shardstep/comm/nccl/nccl_link.h"

namespace shardstep {

/// Where the data of one communicator lies and which calls move it. Integers and addresses only; nothing is read.
struct LandingLayout {
  int rank = 0;
  int world_size = 1;
  NcclExchange exchange = NcclExchange::kExact;
  bool all_to_all = false;  ///< NCCL has it; it is used where every rank sends one slice
  std::vector<BucketExtent> buckets;
  int contributions = 0;  ///< as in ArenaRequest
  std::byte* gradients = nullptr;
  std::byte* weights = nullptr;
  std::byte* landing = nullptr;  ///< of all slots
  int64_t slot_bytes = 0;

  /// ResourceExhausted when it cannot be counted. 0 with one rank: nothing lands.
  absl::StatusOr<int64_t> SlotBytes() const;
  const BucketExtent& bucket(int b) const { return buckets[static_cast<size_t>(b)]; }
  /// This rank's gradients of `bucket`, all ranks' shards.
  Slice OwnGradients(int b) const;
  std::byte* Weights(int b) const { return weights + bucket(b).weight_begin_byte; }
  /// The shard of `rank` begins here, in Weights.
  int64_t WeightShardBytes(int b) const { return bucket(b).shard_elements * SizeBytes(bucket(b).weight_dtype); }

  /// What arrives from an exchange of `mine` (OwnGradients, or the contributions) into `slot`.
  std::vector<Slice> Slices(int b, absl::Span<const Slice> mine, int64_t slot) const;
  /// Enqueues it. `slices` of the same arguments.
  void Exchange(int b, absl::Span<const Slice> mine, absl::Span<const Slice> slices, int64_t slot,
                NcclCalls& calls) const;
  void Publish(int b, NcclCalls& calls) const;

 private:
  std::byte* Slot(int64_t slot) const { return landing + slot * slot_bytes; }
  bool UsesAllToAll() const { return all_to_all && contributions == 0; }
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_NCCL_LANDING_LAYOUT_H_
