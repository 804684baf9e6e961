#include "shardstep/runtime/shard_buffers.h"

#include "shardstep/runtime/sharded_optimizer_impl.h"

namespace shardstep {

std::vector<ShardBuffers> ShardBuffersOf(const ShardedOptimizer& optimizer) {
  const ShardedOptimizer::Impl& impl = *optimizer.impl_;
  const ShardLayout& layout = impl.layout_;
  std::vector<ShardBuffers> all;
  for (int b = 0; b < layout.bucket_count(); ++b) {
    if (!impl.state_.active(b)) continue;
    const BucketState& state = impl.state_.bucket(b);
    ShardBuffers buffers{.kind = layout.kind(b),
                         .segments = impl.groups_.Segments(b, optimizer.rank()),
                         .shard_elements = layout.shard_elements(b),
                         .accumulator = state.accumulator,
                         .master = state.master,
                         .remainder = state.remainder,
                         .first_moment = state.first_moment,
                         .second_moment = state.second_moment};
    if (impl.host().traits().slices_persist) {
      const auto gradients = impl.host().slices(b, 0);
      buffers.gradients.assign(gradients.begin(), gradients.end());
    } else {
      buffers.gradients = {{.data = impl.gradients_.data + layout.bucket_gradient_begin_byte(b),
                            .dtype = layout.kind(b).gradient_dtype,
                            .rank = optimizer.rank()}};
    }
    buffers.shards_per_slice = layout.world_size() / static_cast<int>(buffers.gradients.size());
    const auto destinations = impl.Outer().Destinations(b);
    buffers.destinations.assign(destinations.begin(), destinations.end());
    all.push_back(std::move(buffers));
  }
  return all;
}

}  // namespace shardstep
