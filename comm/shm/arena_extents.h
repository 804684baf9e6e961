#ifndef SHARDSTEP_COMM_SHM_ARENA_EXTENTS_H_
#define SHARDSTEP_COMM_SHM_ARENA_EXTENTS_H_

#include <cstdint>

#include "absl/types/span.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/rendezvous.h"

/// What every backend checks before it makes arenas.

namespace shardstep {

struct ArenaSizes {
  int64_t gradient_bytes = 0;  ///< 0 with contributions: there is no gradient arena
  int64_t weight_bytes = 0;
};

/// The bytes of the arenas that hold the buckets of `request`. InvalidArgument names the bucket and the field that is
/// negative, no multiple of 64, fp16, too large to count in bytes, or makes the bucket overlap another one; and
/// `weights` that are too small or `contributions` below zero.
absl::StatusOr<ArenaSizes> MeasureArenas(const ArenaRequest& request, int world_size);

/// Collective. OK when every rank passes the same request, but for addresses; FailedPrecondition names two ranks, by
/// `rank_names` unless that is empty, and the first bucket and field in which they differ.
absl::Status CompareRequests(Rendezvous& rendezvous, const ArenaRequest& request, absl::Span<const int> rank_names,
                             absl::Duration deadline);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_SHM_ARENA_EXTENTS_H_
