#ifndef SHARDSTEP_RUNTIME_SHARD_BUFFERS_H_
#define SHARDSTEP_RUNTIME_SHARD_BUFFERS_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/comm/slice.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/runtime/sharded_optimizer.h"

namespace shardstep {

/// Where the kernels of a step read and write for one bucket of this rank's shard. What is not there is nullptr. For
/// tools that measure; whoever writes here, between steps, changes the model.
struct ShardBuffers {
  BucketKind kind;
  std::vector<Segment> segments;  ///< the elements that are not padding; pointers below are those of element 0
  int64_t shard_elements = 0;     ///< padding included
  /// Of the ranks whose memory this one sees, by rank, each `shards_per_slice` consecutive shards: on one host this
  /// rank's shard, on several its rail (comm/levels.h), without shared memory all shards of its own.
  std::vector<Slice> gradients;
  int shards_per_slice = 1;
  float* accumulator = nullptr;
  float* master = nullptr;
  uint16_t* remainder = nullptr;
  float* first_moment = nullptr;
  float* second_moment = nullptr;
  std::vector<void*> destinations;
};

/// By bucket, those without state (frozen) left out.
std::vector<ShardBuffers> ShardBuffersOf(const ShardedOptimizer& optimizer);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_SHARD_BUFFERS_H_
