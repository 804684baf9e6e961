#include "shardstep/comm/shm/arena_extents.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

namespace shardstep {
namespace {

std::string Encode(absl::Span<const BucketExtent> buckets) {
  std::string bytes(buckets.size() * sizeof(BucketExtent), '\0');
  if (!buckets.empty()) std::memcpy(bytes.data(), buckets.data(), bytes.size());
  return bytes;
}

size_t FirstDifference(const std::string& a, const std::string& b) {
  const auto [first, unused] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return static_cast<size_t>(first - a.begin()) / sizeof(BucketExtent);
}

std::string Describe(const std::string& bytes, size_t bucket) {
  const size_t count = bytes.size() / sizeof(BucketExtent);
  if (bucket >= count) return absl::StrCat("has only ", count, " buckets");
  BucketExtent extent;
  std::memcpy(&extent, bytes.data() + bucket * sizeof(BucketExtent), sizeof(extent));
  return absl::StrCat("has begin ", extent.begin_element, " and shards of ", extent.shard_elements, " elements");
}

}  // namespace

absl::StatusOr<int64_t> ArenaElements(absl::Span<const BucketExtent> buckets, int world_size) {
  // Every arena of every rank together must be countable in bytes.
  const int64_t limit = std::numeric_limits<int64_t>::max() / 4 / (world_size + 1);
  std::vector<size_t> order(buckets.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::make_pair(buckets[a].begin_element, buckets[a].shard_elements) <
           std::make_pair(buckets[b].begin_element, buckets[b].shard_elements);
  });
  int64_t end = 0;
  for (const size_t bucket : order) {
    const BucketExtent& extent = buckets[bucket];
    if (extent.begin_element < 0 || extent.shard_elements < 0 || extent.begin_element > limit ||
        extent.shard_elements > (limit - extent.begin_element) / world_size) {
      return absl::InvalidArgumentError(absl::StrCat("bucket ", bucket, ": begin ", extent.begin_element,
                                                     " and shards of ", extent.shard_elements,
                                                     " elements are negative or too large"));
    }
    if (extent.begin_element < end) {
      return absl::InvalidArgumentError(
          absl::StrCat("bucket ", bucket, ": begins at ", extent.begin_element, ", inside another one"));
    }
    end = extent.begin_element + extent.shard_elements * world_size;
  }
  return end;
}

absl::Status CompareExtents(Rendezvous& rendezvous, absl::Span<const BucketExtent> buckets, absl::Duration deadline) {
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                             rendezvous.AllGatherBytes("Allocate: buckets", Encode(buckets), deadline));
  for (size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank] == all[0]) continue;
    const size_t bucket = FirstDifference(all[0], all[rank]);
    return absl::FailedPreconditionError(absl::StrCat("Allocate: bucket ", bucket, " differs: rank 0 ",
                                                      Describe(all[0], bucket), ", rank ", rank, " ",
                                                      Describe(all[rank], bucket)));
  }
  return absl::OkStatus();
}

}  // namespace shardstep
