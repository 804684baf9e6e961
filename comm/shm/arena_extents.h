#ifndef SHARDSTEP_COMM_SHM_ARENA_EXTENTS_H_
#define SHARDSTEP_COMM_SHM_ARENA_EXTENTS_H_

#include <string>

#include "absl/types/span.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/rendezvous.h"

namespace shardstep {

/// The elements of an arena that holds `buckets`. InvalidArgument names a bucket that is negative, too large to count
/// in bytes, or overlaps another one.
absl::StatusOr<int64_t> ArenaElements(absl::Span<const BucketExtent> buckets, int world_size);

/// Collective. OK when every rank passes the same buckets; FailedPrecondition names two ranks and the first bucket in
/// which they differ.
absl::Status CompareExtents(Rendezvous& rendezvous, absl::Span<const BucketExtent> buckets, absl::Duration deadline);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_SHM_ARENA_EXTENTS_H_
