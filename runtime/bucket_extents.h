#ifndef SHARDSTEP_RUNTIME_BUCKET_EXTENTS_H_
#define SHARDSTEP_RUNTIME_BUCKET_EXTENTS_H_

#include <vector>

#include "shardstep/comm/communicator.h"
#include "shardstep/comm/levels.h"
#include "shardstep/optimizer/shard_layout.h"

namespace shardstep {

/// The buckets as the ranks of a host see them: a shard for each is the rail of all hosts' shards. With one level
/// (`map` without hosts) these are the layout's shards. With `local_sums` what is exchanged is fp32, whatever the
/// gradients are.
std::vector<BucketExtent> HostExtents(const ShardLayout& layout, const HostMap& map, bool local_sums);

/// The buckets as the ranks of this rank's rail see them, one for each host.
std::vector<BucketExtent> NetworkExtents(const ShardLayout& layout, const HostMap& map);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_BUCKET_EXTENTS_H_
