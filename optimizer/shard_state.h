#ifndef SHARDSTEP_OPTIMIZER_SHARD_STATE_H_
#define SHARDSTEP_OPTIMIZER_SHARD_STATE_H_

#include <cstdint>
#include <vector>

#include "shardstep/comm/buffer.h"
#include "shardstep/optimizer/shard_layout.h"

namespace shardstep {

/// What a rank keeps of its shard of one bucket: shard_elements each, padding included and always zero; nullptr where
/// the bucket's kind has none.
struct BucketState {
  float* master = nullptr;
  uint16_t* remainder = nullptr;
  float* first_moment = nullptr;
  float* second_moment = nullptr;
  float* accumulator = nullptr;        ///< the running sum of a step
  float* group_accumulator = nullptr;  ///< of a group of micro-batches that several micro-steps share
};

/// What a rank owns of the optimizer, bucket by bucket. With AdamW and an fp32 master 12 bytes per owned parameter, 16
/// with the accumulator; a frozen bucket has none.
class ShardState {
 public:
  /// Which running sums a plan wants.
  struct Sums {
    bool accumulator = false;
    bool group_accumulator = false;
  };

  ShardState() = default;
  /// For the buckets that are not frozen.
  static absl::StatusOr<ShardState> Create(const ShardLayout& layout, const Sums& sums);

  /// Makes the sums that are not there yet, in every bucket that has state. Nothing has changed after an error.
  absl::Status EnsureSums(const ShardLayout& layout, const Sums& sums);
  /// Makes (zeroed) or drops everything of bucket b.
  absl::Status Thaw(const ShardLayout& layout, int b);
  void Freeze(int b);

  const BucketState& bucket(int b) const { return buckets_[b].pointers; }

 private:
  struct Bucket {
    bool active = false;
    BucketState pointers;
    std::vector<Buffer> buffers;
  };

  Sums sums_;
  std::vector<Bucket> buckets_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_SHARD_STATE_H_
