#ifndef SHARDSTEP_TESTS_RUNTIME_STEP_RECORDER_H_
#define SHARDSTEP_TESTS_RUNTIME_STEP_RECORDER_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "shardstep/comm/communicator.h"
#include "shardstep/comm/host_stream.h"
#include "shardstep/optimizer/shard_kernels.h"
#include "shardstep/tests/recording/recording.h"

namespace shardstep {

/// A stream that runs host work at once and records it.
class RecorderStream : public HostStream {
 public:
  RecorderStream(Recording* recording, int id, std::string name)
      : recording_(recording), id_(id), name_(std::move(name)) {}

  /// Appends an item that touches `accesses`; waits called since the last item become its edges.
  int Append(const std::string& name, std::vector<MemoryAccess> accesses);

  void Enqueue(absl::string_view name, Work work) override;
  Event Record() override { return {this, last_}; }
  void Wait(const Event& event) override;
  absl::Status Synchronize(const Event&) override { return status_; }
  absl::Status status() const override { return status_; }

 private:
  Recording* recording_;
  int id_;
  std::string name_;
  int last_ = -1;
  std::vector<Event> pending_;
  absl::Status status_;
};

/// Kernels that do no arithmetic and record what they would touch.
class RecorderKernels : public ShardKernels {
 public:
  absl::Status Reduce(const ReduceArgs& args, Stream& stream) override;
  absl::Status Update(const UpdateArgs& args, Stream& stream) override;
  absl::Status Zero(const ZeroArgs& args, Stream& stream) override;
  absl::Status Copy(const CopyArgs& args, Stream& stream) override;
  absl::Status Digest(const DigestArgs& args, Stream& stream) override;
  absl::Status Contribute(const ContributeWords& words, Stream& stream) override;
  absl::Status Decide(const DecideWords& words, Stream& stream) override;
  absl::Status SetSegments(absl::Span<const absl::Span<const Segment>>) override { return absl::OkStatus(); }
};

/// What the ranks of one recorded communicator share: every rank's gradients, and one weight arena or one per rank.
struct RecorderGroup {
  using Arena = std::vector<std::byte>;

  RecorderGroup(std::string group_name, int size, CommunicatorTraits traits_to_have, int64_t exchanges)
      : name(std::move(group_name)), world_size(size), traits(traits_to_have), exchanges_per_step(exchanges) {}
  /// Makes arenas of its own: weights once, or `private_weights`.
  void MakeArenas(int64_t gradient_bytes, int64_t weight_bytes, bool private_weights);

  std::string name;  ///< "host 0": a communicator's waits are not another's
  int world_size;
  CommunicatorTraits traits;
  int64_t exchanges_per_step;
  std::vector<Arena> gradients;
  std::vector<Arena> own_weights;
  std::vector<BufferView> weights;  ///< by rank
};

/// A communicator that moves nothing and records what its operations touch and wait for: as shared memory does (slices
/// persist), or as a network does: transfers under way that read what is sent and write a landing ring, or weights.
class RecorderCommunicator : public Communicator {
 public:
  RecorderCommunicator(Recording* recording, RecorderGroup* group, int rank, std::vector<BucketExtent> buckets,
                       int contributions = 0);

  int rank() const override { return rank_; }
  int world_size() const override { return group_->world_size; }
  CommunicatorTraits traits() const override { return group_->traits; }
  absl::Status Allocate(const ArenaRequest&) override { return absl::OkStatus(); }
  BufferView gradients() override;
  BufferView weights() override { return group_->weights[rank_]; }
  absl::Status Exchange(int bucket, int64_t micro_step, absl::Span<const Slice> contributions, Stream& stream) override;
  absl::Status AwaitSlices(int bucket, int64_t micro_step, Stream& stream) override;
  absl::Span<const Slice> slices(int bucket, int64_t micro_step) override;
  absl::Status Release(int bucket, int64_t micro_step, Stream& stream) override;
  absl::Status AwaitReleased(int bucket, int64_t micro_step, Stream& stream) override;
  absl::Status AllReduceSmall(SmallReduction* reduction, Stream& stream) override;
  absl::Span<void* const> Destinations(int bucket) override { return destinations_[bucket]; }
  absl::Status Publish(int bucket, int64_t step, Stream& stream) override;
  absl::Status AwaitPublished(int bucket, int64_t step, Stream& stream) override;
  void Abort(const absl::Status&) override {}
  absl::Status AsyncStatus() const override { return absl::OkStatus(); }
  void SetAway(absl::Duration) override {}

  /// Operations so far, by name.
  const std::map<std::string, int64_t>& operations() const { return operations_; }

 private:
  bool persists() const { return group_->traits.slices_persist; }
  std::string Key(const char* operation, int bucket, int64_t count, int64_t per_step) const;
  std::string Label(const char* operation, int bucket, int64_t count, int rank) const;
  void AwaitAll(const char* operation, int bucket, int64_t count, int item, const std::string& key);
  /// Shards [first, first + shards) of `bucket` in memory that holds the bucket's begin at `data`.
  MemoryAccess Shards(const void* data, int bucket, DType dtype, int first, int shards, bool write) const;
  void StartTransfers(int exchange_item, int bucket, int64_t micro_step, absl::Span<const Slice> sent);

  Recording* recording_;
  RecorderGroup* group_;
  int rank_;
  std::vector<BucketExtent> buckets_;
  int contributions_;
  std::vector<std::vector<void*>> destinations_;  // by bucket
  std::vector<std::vector<Slice>> slices_;        // by bucket
  std::vector<std::vector<std::byte>> landing_;   // by slot
  int64_t exchanges_ = 0;
  int64_t reductions_ = 0;
  std::map<std::string, int64_t> operations_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_RUNTIME_STEP_RECORDER_H_
