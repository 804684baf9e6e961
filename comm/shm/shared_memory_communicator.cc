#include "shardstep/comm/shm/shared_memory_communicator.h"

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "shardstep/comm/inproc/heap_region.h"
#include "shardstep/comm/shm/arena_extents.h"
#include "shardstep/comm/shm/control.h"
#include "shardstep/comm/shm/host_id.h"
#include "shardstep/comm/shm/memfd_region.h"
#include "shardstep/comm/shm/shared_regions.h"

namespace shardstep {
namespace {

absl::StatusOr<HostStream*> AsHostStream(Stream& stream, absl::string_view operation) {
  auto* host_stream = dynamic_cast<HostStream*>(&stream);
  if (host_stream == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(operation, ": stream is not a host stream"));
  }
  return host_stream;
}

// What a counter of a kind counts, for messages.
absl::string_view UnitOf(BucketControl::Kind kind) { return kind == BucketControl::kPublished ? "step" : "micro-step"; }

class SharedMemoryCommunicator final : public Communicator {
 public:
  SharedMemoryCommunicator(Rendezvous& rendezvous, const SharedMemoryOptions& options,
                           std::unique_ptr<RegionProvider> provider, std::unique_ptr<Region> job_region)
      : rendezvous_(rendezvous),
        rank_(rendezvous.rank()),
        world_size_(rendezvous.world_size()),
        options_(options),
        provider_(std::move(provider)),
        job_region_(std::move(job_region)),
        job_(job_region_->view(), world_size_) {}

  int rank() const override { return rank_; }
  int world_size() const override { return world_size_; }
  CommunicatorTraits traits() const override {
    return {.slices_persist = true, .landing_buckets = 0, .separate_exchange_stream = false};
  }

  absl::Status Allocate(absl::Span<const BucketExtent> buckets) override;
  BufferView gradients() override { return ArenaView(gradient_regions_, rank_); }
  BufferView weights() override { return {weights_.data, arena_bytes_}; }

  absl::Status Exchange(int bucket, int64_t micro_step, Stream& stream) override {
    return EnqueueAdvance("Exchange", BucketControl::kExchanged, bucket, micro_step, stream);
  }
  absl::Status AwaitSlices(int bucket, int64_t micro_step, Stream& stream) override {
    return EnqueueAwait("AwaitSlices", BucketControl::kExchanged, bucket, micro_step, stream);
  }
  absl::Span<const Slice> slices(int bucket, int64_t /*micro_step*/) override {
    return absl::MakeConstSpan(slices_).subspan(static_cast<size_t>(bucket) * static_cast<size_t>(world_size_),
                                                static_cast<size_t>(world_size_));
  }
  absl::Status Release(int bucket, int64_t micro_step, Stream& stream) override {
    return EnqueueAdvance("Release", BucketControl::kReleased, bucket, micro_step, stream);
  }
  absl::Status AwaitReleased(int bucket, int64_t micro_step, Stream& stream) override {
    return EnqueueAwait("AwaitReleased", BucketControl::kReleased, bucket, micro_step, stream);
  }

  absl::Status AllReduceSmall(SmallReduction* reduction, Stream& stream) override;

  absl::Span<Bf16* const> Destinations(int bucket) override {
    return absl::MakeConstSpan(destinations_).subspan(static_cast<size_t>(bucket), 1);
  }
  absl::Status Publish(int bucket, int64_t step, Stream& stream) override {
    return EnqueueAdvance("Publish", BucketControl::kPublished, bucket, step, stream);
  }
  absl::Status AwaitPublished(int bucket, int64_t step, Stream& stream) override {
    return EnqueueAwait("AwaitPublished", BucketControl::kPublished, bucket, step, stream);
  }

  void Abort(const absl::Status& reason) override {
    job_.Abort(rank_, reason);
    if (allocated_.load()) counters_.WakeAll();
  }
  absl::Status AsyncStatus() const override { return job_.AbortStatus(); }
  void SetAway(absl::Duration duration) override { job_.SetAway(rank_, duration); }

 private:
  absl::Status EnqueueAdvance(absl::string_view operation, BucketControl::Kind kind, int bucket, int64_t number,
                              Stream& stream);
  absl::Status EnqueueAwait(absl::string_view operation, BucketControl::Kind kind, int bucket, int64_t number,
                            Stream& stream);
  absl::Status CheckOperation(absl::string_view operation, BucketControl::Kind kind, int bucket, int64_t number) const;
  absl::Status ReduceSmall(SmallReduction* reduction);
  absl::Status ShareArenas(int64_t arena_elements);
  void PlaceShards(absl::Span<const BucketExtent> buckets);
  BufferView ArenaView(const std::vector<std::unique_ptr<Region>>& regions, int rank) const {
    if (regions.empty()) return {};
    return {regions[static_cast<size_t>(rank)]->view().data, arena_bytes_};
  }

  Rendezvous& rendezvous_;
  const int rank_;
  const int world_size_;
  const SharedMemoryOptions options_;
  const std::unique_ptr<RegionProvider> provider_;
  const std::unique_ptr<Region> job_region_;
  const JobControl job_;

  bool allocate_called_ = false;
  std::atomic<bool> allocated_ = false;
  int buckets_ = 0;
  int64_t arena_bytes_ = 0;
  std::vector<std::unique_ptr<Region>> gradient_regions_;  ///< by rank
  std::unique_ptr<Region> weight_region_;
  std::unique_ptr<Region> counter_region_;
  BufferView weights_;
  BucketControl counters_;
  std::vector<Slice> slices_;        ///< world_size per bucket
  std::vector<Bf16*> destinations_;  ///< one per bucket
  int64_t reductions_ = 0;           ///< small all-reduces executed; touched in stream order only
};

absl::Status SharedMemoryCommunicator::Allocate(absl::Span<const BucketExtent> buckets) {
  if (std::exchange(allocate_called_, true)) return absl::FailedPreconditionError("Allocate: called twice");
  const absl::StatusOr<int64_t> elements = ArenaElements(buckets, world_size_);
  SHARDSTEP_RETURN_IF_ERROR(
      AgreeOnStatus(rendezvous_, "Allocate: arguments", elements.status(), options_.setup_deadline));
  SHARDSTEP_RETURN_IF_ERROR(CompareExtents(rendezvous_, buckets, options_.setup_deadline));
  buckets_ = static_cast<int>(buckets.size());
  SHARDSTEP_RETURN_IF_ERROR(ShareArenas(*elements));
  PlaceShards(buckets);
  allocated_.store(true);
  return absl::OkStatus();
}

absl::Status SharedMemoryCommunicator::ShareArenas(int64_t arena_elements) {
  const int64_t arena_bytes = arena_elements * static_cast<int64_t>(sizeof(Bf16));
  const int64_t region_bytes = std::max<int64_t>(arena_bytes, 1);
  std::vector<SharedRegionRequest> requests;
  for (int rank = 0; rank < world_size_; ++rank) {
    requests.push_back({rank, region_bytes, PageAccess::kRead, absl::StrCat("gradient arena of rank ", rank)});
  }
  requests.push_back({0, region_bytes, PageAccess::kWrite, "weight arena"});
  requests.push_back({0, std::max<int64_t>(BucketControl::SizeBytes(buckets_, world_size_), 1), PageAccess::kWrite,
                      "bucket counters"});
  SHARDSTEP_ASSIGN_OR_RETURN(gradient_regions_,
                             ShareRegions(rendezvous_, *provider_, requests, "Allocate", options_.setup_deadline));
  counter_region_ = std::move(gradient_regions_.back());
  gradient_regions_.pop_back();
  weight_region_ = std::move(gradient_regions_.back());
  gradient_regions_.pop_back();
  arena_bytes_ = arena_bytes;
  weights_ = weight_region_->view();
  counters_ = BucketControl(counter_region_->view(), buckets_, world_size_);
  return absl::OkStatus();
}

void SharedMemoryCommunicator::PlaceShards(absl::Span<const BucketExtent> buckets) {
  for (const BucketExtent& extent : buckets) {
    const int64_t begin = extent.begin_element + rank_ * extent.shard_elements;
    destinations_.push_back(weights_.as<Bf16>() + begin);
    for (int peer = 0; peer < world_size_; ++peer) {
      slices_.push_back({ArenaView(gradient_regions_, peer).as<Bf16>() + begin, peer});
    }
  }
}

absl::Status SharedMemoryCommunicator::CheckOperation(absl::string_view operation, BucketControl::Kind kind, int bucket,
                                                      int64_t number) const {
  if (!allocated_.load()) return absl::FailedPreconditionError(absl::StrCat(operation, ": before Allocate"));
  if (bucket < 0 || bucket >= buckets_) {
    return absl::InvalidArgumentError(absl::StrCat(operation, ": bucket = ", bucket, ", there are ", buckets_));
  }
  if (number < 0) {
    return absl::InvalidArgumentError(absl::StrCat(operation, ": ", UnitOf(kind), " = ", number, " is negative"));
  }
  return absl::OkStatus();
}

absl::Status SharedMemoryCommunicator::EnqueueAdvance(absl::string_view operation, BucketControl::Kind kind, int bucket,
                                                      int64_t number, Stream& stream) {
  SHARDSTEP_RETURN_IF_ERROR(CheckOperation(operation, kind, bucket, number));
  SHARDSTEP_ASSIGN_OR_RETURN(HostStream* const host_stream, AsHostStream(stream, operation));
  host_stream->Enqueue("", [=, this]() -> absl::Status {
    const CounterRow row = counters_.row(kind, bucket);
    if (row.value(rank_) > number) {
      return absl::FailedPreconditionError(absl::StrCat(operation, " of bucket ", bucket, ", ", UnitOf(kind), " ",
                                                        number, ": ", UnitOf(kind), " ", row.value(rank_) - 1,
                                                        " is already done"));
    }
    row.Advance(rank_, number + 1);
    return absl::OkStatus();
  });
  return absl::OkStatus();
}

absl::Status SharedMemoryCommunicator::EnqueueAwait(absl::string_view operation, BucketControl::Kind kind, int bucket,
                                                    int64_t number, Stream& stream) {
  SHARDSTEP_RETURN_IF_ERROR(CheckOperation(operation, kind, bucket, number));
  SHARDSTEP_ASSIGN_OR_RETURN(HostStream* const host_stream, AsHostStream(stream, operation));
  host_stream->Enqueue("", [=, this] {
    return AwaitCounters(job_, counters_.row(kind, bucket), number + 1, options_.wait_deadline, [&] {
      return absl::StrCat(operation, " of bucket ", bucket, ", ", UnitOf(kind), " ", number);
    });
  });
  return absl::OkStatus();
}

absl::Status SharedMemoryCommunicator::AllReduceSmall(SmallReduction* reduction, Stream& stream) {
  SHARDSTEP_ASSIGN_OR_RETURN(HostStream* const host_stream, AsHostStream(stream, "AllReduceSmall"));
  host_stream->Enqueue("", [=, this] { return ReduceSmall(reduction); });
  return absl::OkStatus();
}

// Two slots suffice: who writes slot n + 2 has seen everyone at n + 1, hence done with reading n.
absl::Status SharedMemoryCommunicator::ReduceSmall(SmallReduction* reduction) {
  const int64_t number = reductions_++;
  job_.slot(rank_, number) = *reduction;
  job_.reduced().Advance(rank_, number + 1);
  SHARDSTEP_RETURN_IF_ERROR(AwaitCounters(job_, job_.reduced(), number + 1, options_.wait_deadline,
                                          [&] { return absl::StrCat("AllReduceSmall number ", number); }));
  SmallReduction result = job_.slot(0, number);
  for (int peer = 1; peer < world_size_; ++peer) {
    const SmallReduction& other = job_.slot(peer, number);
    for (size_t i = 0; i < other.sums.size(); ++i) {
      // Unsigned, so that a caller's overflow wraps equally everywhere.
      result.sums[i] =
          static_cast<int64_t>(static_cast<uint64_t>(result.sums[i]) + static_cast<uint64_t>(other.sums[i]));
    }
    for (size_t i = 0; i < other.minima.size(); ++i) result.minima[i] = std::min(result.minima[i], other.minima[i]);
  }
  *reduction = result;
  return absl::OkStatus();
}

absl::Status CheckOptions(const SharedMemoryOptions& options) {
  if (options.wait_deadline <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat("wait_deadline = ", absl::FormatDuration(options.wait_deadline), " is not positive"));
  }
  if (options.setup_deadline <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat("setup_deadline = ", absl::FormatDuration(options.setup_deadline), " is not positive"));
  }
  return absl::OkStatus();
}

// FailedPrecondition, the same on every rank, unless all of them passed the same `mine`.
absl::Status CompareText(Rendezvous& rendezvous, absl::string_view what, const std::string& mine,
                         absl::Duration deadline) {
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                             rendezvous.AllGatherBytes(absl::StrCat("Create: ", what), mine, deadline));
  for (size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank] == all[0]) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("Create: ", what, " differs: rank 0 has ", all[0], ", rank ", rank, " has ", all[rank]));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Communicator>> Create(Rendezvous& rendezvous, const SharedMemoryOptions& options,
                                                     std::unique_ptr<RegionProvider> provider) {
  const absl::Status valid = CheckOptions(options);
  const absl::Duration deadline = valid.ok() ? options.setup_deadline : SharedMemoryOptions().setup_deadline;
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(rendezvous, "Create: options", valid, deadline));
  SHARDSTEP_RETURN_IF_ERROR(
      CompareText(rendezvous, "host_id", options.host_id.empty() ? DefaultHostId() : options.host_id, deadline));
  SHARDSTEP_RETURN_IF_ERROR(
      CompareText(rendezvous, "control layout", absl::StrCat("version ", kControlLayout), deadline));
  const SharedRegionRequest control{0, JobControl::SizeBytes(rendezvous.world_size()), PageAccess::kWrite,
                                    "job control"};
  SHARDSTEP_ASSIGN_OR_RETURN(std::vector<std::unique_ptr<Region>> regions,
                             ShareRegions(rendezvous, *provider, {&control, 1}, "Create", deadline));
  return std::make_unique<SharedMemoryCommunicator>(rendezvous, options, std::move(provider), std::move(regions[0]));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> CreateShmCommunicator(Rendezvous& rendezvous,
                                                                    const SharedMemoryOptions& options) {
  return Create(rendezvous, options, MakeMemfdRegionProvider());
}

absl::StatusOr<std::unique_ptr<Communicator>> CreateInprocCommunicator(Rendezvous& rendezvous,
                                                                       const SharedMemoryOptions& options) {
  return Create(rendezvous, options, MakeHeapRegionProvider());
}

}  // namespace shardstep
