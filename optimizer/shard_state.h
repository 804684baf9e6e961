#ifndef SHARDSTEP_OPTIMIZER_SHARD_STATE_H_
#define SHARDSTEP_OPTIMIZER_SHARD_STATE_H_

#include <cstdint>

#include "shardstep/comm/buffer.h"
#include "shardstep/optimizer/shard_layout.h"

namespace shardstep {

/// What a rank owns of the optimizer, in fp32: 12 bytes per owned parameter, or 16 with the accumulator. Every array
/// has layout.state_elements() elements: bucket after bucket, padding included and always zero.
class ShardState {
 public:
  static absl::StatusOr<ShardState> Create(const ShardLayout& layout, bool with_accumulator);

  /// Makes the accumulator if there is none yet.
  absl::Status EnsureAccumulator(const ShardLayout& layout);

  float* master() const { return master_.as<float>(); }
  float* first_moment() const { return first_moment_.as<float>(); }
  float* second_moment() const { return second_moment_.as<float>(); }
  /// nullptr without one.
  float* accumulator() const { return accumulator_.as<float>(); }

 private:
  Buffer master_, first_moment_, second_moment_, accumulator_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_SHARD_STATE_H_
