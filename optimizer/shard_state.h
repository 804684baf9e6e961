#ifndef SHARDSTEP_OPTIMIZER_SHARD_STATE_H_
#define SHARDSTEP_OPTIMIZER_SHARD_STATE_H_

#include <cstdint>
#include <vector>

#include "shardstep/comm/buffer.h"
#include "shardstep/comm/memory.h"
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
/// with the accumulator; a frozen bucket has none. Memory gets its pages on first use: what is never used costs
/// nothing.
class ShardState {
 public:
  /// Which running sums a plan wants.
  struct Sums {
    bool accumulator = false;
    bool group_accumulator = false;
  };

  /// What a rank keeps, by purpose.
  struct Bytes {
    int64_t master_bytes = 0;  ///< fp32 masters and remainders
    int64_t moment_bytes = 0;
    int64_t sum_bytes = 0;

    int64_t total_bytes() const { return master_bytes + moment_bytes + sum_bytes; }
    Bytes& operator+=(const Bytes& other) {
      master_bytes += other.master_bytes;
      moment_bytes += other.moment_bytes;
      sum_bytes += other.sum_bytes;
      return *this;
    }
    bool operator==(const Bytes&) const = default;
  };

  /// What bucket b costs once it has state, frozen as registered or not. Allocates nothing.
  static Bytes BytesOf(const ShardLayout& layout, int b, const Sums& sums);
  /// What Create would allocate.
  static Bytes BytesOf(const ShardLayout& layout, const Sums& sums);

  ShardState() = default;
  /// For the buckets that are not frozen as registered, in `memory`, which must outlive it. ResourceExhausted when the
  /// system refuses, or has less memory than all of it takes once it is used.
  static absl::StatusOr<ShardState> Create(const ShardLayout& layout, const Sums& sums, Memory& memory = HostMemory());

  /// Makes the sums that are not there yet, zeroed, in every bucket that has state; buckets that are thawed later get
  /// them too. Nothing has changed after an error.
  absl::Status EnsureSums(const ShardLayout& layout, const Sums& sums);
  /// Makes everything of bucket b, zeroed; nothing, when it has state. Nothing has changed after an error.
  absl::Status Thaw(const ShardLayout& layout, int b);
  /// Drops everything of bucket b: its pointers are nullptr.
  void Freeze(int b);

  /// What it holds now; 0 before Create.
  Bytes bytes(const ShardLayout& layout) const;
  /// Whether bucket b has state.
  bool active(int b) const { return buckets_[b].active; }
  /// Pointers stay until the bucket is frozen, wherever the ShardState is moved to.
  const BucketState& bucket(int b) const { return buckets_[b].pointers; }

 private:
  struct Bucket {
    bool active = false;
    BucketState pointers;
    std::vector<Buffer> buffers;
  };

  // Makes what `bucket` lacks of bucket b.
  absl::Status Fill(const ShardLayout& layout, int b, const Sums& sums, Bucket* bucket) const;

  Memory* memory_ = &HostMemory();
  Sums sums_;
  std::vector<Bucket> buckets_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_SHARD_STATE_H_
