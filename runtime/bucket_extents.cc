#include "shardstep/runtime/bucket_extents.h"

#include <algorithm>

namespace shardstep {

std::vector<BucketExtent> HostExtents(const ShardLayout& layout, const HostMap& map, bool local_sums) {
  const int64_t hosts = std::max(1, map.host_count());
  std::vector<BucketExtent> extents;
  int64_t next_sum_byte = 0;
  for (int b = 0; b < layout.bucket_count(); ++b) {
    const BucketKind& kind = layout.kind(b);
    extents.push_back({.shard_elements = hosts * layout.shard_elements(b),
                       .gradient_dtype = local_sums ? DType::kFp32 : kind.gradient_dtype,
                       .weight_dtype = kind.weight_dtype,
                       .gradient_begin_byte = local_sums ? next_sum_byte : layout.bucket_gradient_begin_byte(b),
                       .weight_begin_byte = layout.bucket_weight_begin_byte(b)});
    next_sum_byte += layout.shard_elements(b) * layout.world_size() * SizeBytes(DType::kFp32);
  }
  return extents;
}

std::vector<BucketExtent> NetworkExtents(const ShardLayout& layout, const HostMap& map) {
  std::vector<BucketExtent> extents;
  for (int b = 0; b < layout.bucket_count(); ++b) {
    const BucketKind& kind = layout.kind(b);
    const int64_t rail_begin = map.local_rank * map.host_count() * layout.shard_elements(b);
    extents.push_back(
        {.shard_elements = layout.shard_elements(b),
         .gradient_dtype = kind.gradient_dtype,
         .weight_dtype = kind.weight_dtype,
         .gradient_begin_byte = layout.bucket_gradient_begin_byte(b) + rail_begin * SizeBytes(kind.gradient_dtype),
         .weight_begin_byte = layout.bucket_weight_begin_byte(b) + rail_begin * SizeBytes(kind.weight_dtype)});
  }
  return extents;
}

}  // namespace shardstep
