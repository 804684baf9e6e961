#ifndef SHARDSTEP_TESTS_RUNTIME_CHECKPOINT_TEST_WEIGHTS_H_
#define SHARDSTEP_TESTS_RUNTIME_CHECKPOINT_TEST_WEIGHTS_H_

#include <cstddef>
#include <vector>

#include "shardstep/comm/communicator.h"
#include "shardstep/optimizer/shard_layout.h"

namespace shardstep {

/// Copies of the weights in which one rank has its shards, and nothing else of a communicator. Copy 0 is its own.
class TestWeights : public Communicator {
 public:
  TestWeights(const ShardLayout& layout, int rank, int copies)
      : rank_(rank),
        world_size_(layout.world_size()),
        copies_(static_cast<size_t>(copies), std::vector<std::byte>(static_cast<size_t>(layout.weight_arena_bytes()))) {
    for (int b = 0; b < layout.bucket_count(); ++b) {
      const int64_t shard_bytes = layout.shard_elements(b) * SizeBytes(layout.kind(b).weight_dtype);
      std::vector<void*> shards;
      for (std::vector<std::byte>& copy : copies_) {
        shards.push_back(copy.data() + layout.bucket_weight_begin_byte(b) + layout.position(rank) * shard_bytes);
      }
      destinations_.push_back(std::move(shards));
    }
  }

  int rank() const override { return rank_; }
  int world_size() const override { return world_size_; }
  BufferView weights() override { return {copies_[0].data(), static_cast<int64_t>(copies_[0].size())}; }
  absl::Span<void* const> Destinations(int bucket) override { return destinations_[static_cast<size_t>(bucket)]; }
  const std::vector<std::vector<std::byte>>& copies() const { return copies_; }

  CommunicatorTraits traits() const override { return {}; }
  absl::Status Allocate(const ArenaRequest&) override { return None(); }
  BufferView gradients() override { return {}; }
  absl::Status Exchange(int, int64_t, absl::Span<const Slice>, Stream&) override { return None(); }
  absl::Status AwaitSlices(int, int64_t, Stream&) override { return None(); }
  absl::Span<const Slice> slices(int, int64_t) override { return {}; }
  absl::Status Release(int, int64_t, Stream&) override { return None(); }
  absl::Status AwaitReleased(int, int64_t, Stream&) override { return None(); }
  absl::Status AllReduceSmall(SmallReduction*, Stream&) override { return None(); }
  absl::Status Publish(int, int64_t, Stream&) override { return None(); }
  absl::Status AwaitPublished(int, int64_t, Stream&) override { return None(); }
  void Abort(const absl::Status&) override {}
  absl::Status AsyncStatus() const override { return absl::OkStatus(); }
  void SetAway(absl::Duration) override {}

 private:
  static absl::Status None() { return absl::UnimplementedError("weights only"); }

  const int rank_;
  const int world_size_;
  std::vector<std::vector<std::byte>> copies_;
  std::vector<std::vector<void*>> destinations_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_RUNTIME_CHECKPOINT_TEST_WEIGHTS_H_
