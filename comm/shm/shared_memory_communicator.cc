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
        job_(job_region_->view(), world_size_, options.rank_names) {}

  int rank() const override { return rank_; }
  int world_size() const override { return world_size_; }
  CommunicatorTraits traits() const override {
    return {.slices_persist = true, .landing_buckets = 0, .separate_exchange_stream = false, .joins_hosts = false};
  }

  absl::Status Allocate(const ArenaRequest& request) override;
  BufferView gradients() override {
    return allocated_.load() ? BufferView{GradientsOf(rank_), sizes_.gradient_bytes} : BufferView{};
  }
  BufferView weights() override {
    return allocated_.load() ? BufferView{CopyOf(rank_), sizes_.weight_bytes} : BufferView{};
  }

  absl::Status Exchange(int bucket, int64_t micro_step, absl::Span<const Slice> contributions,
                        Stream& stream) override {
    if (!contributions.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("Exchange: contributions = ", contributions.size(), ", in shared memory there are none"));
    }
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

  absl::Span<void* const> Destinations(int bucket) override {
    return absl::MakeConstSpan(destinations_)
        .subspan(static_cast<size_t>(bucket) * weight_regions_.size(), weight_regions_.size());
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
  absl::Status ShareArenas(bool private_weights);
  void PlaceShards(absl::Span<const BucketExtent> buckets);
  std::byte* GradientsOf(int rank) const { return gradient_regions_[static_cast<size_t>(rank)]->view().data; }
  /// The weights that `rank` reads.
  std::byte* CopyOf(int rank) const {
    return weight_regions_[weight_regions_.size() == 1 ? 0 : static_cast<size_t>(rank)]->view().data;
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
  ArenaSizes sizes_;
  std::vector<std::unique_ptr<Region>> gradient_regions_;  ///< by rank
  std::vector<std::unique_ptr<Region>> weight_regions_;    ///< one, or by rank
  std::unique_ptr<Region> counter_region_;
  BucketControl counters_;
  std::vector<Slice> slices_;        ///< world_size per bucket
  std::vector<void*> destinations_;  ///< as many per bucket as there are weight regions
  int64_t reductions_ = 0;           ///< small all-reduces executed; touched in stream order only
};

absl::Status CheckRequest(const ArenaRequest& request) {
  if (request.contributions != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("contributions = ", request.contributions, ", shared memory takes none"));
  }
  if (request.weights.data != nullptr) {
    return absl::InvalidArgumentError("weights: shared memory does not take weights that exist");
  }
  return absl::OkStatus();
}

absl::Status SharedMemoryCommunicator::Allocate(const ArenaRequest& request) {
  if (std::exchange(allocate_called_, true)) return absl::FailedPreconditionError("Allocate: called twice");
  absl::Status valid = CheckRequest(request);
  if (valid.ok()) {
    const absl::StatusOr<ArenaSizes> sizes = MeasureArenas(request, world_size_);
    valid = sizes.status();
    if (sizes.ok()) sizes_ = *sizes;
  }
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(rendezvous_, "Allocate: arguments", valid, options_.setup_deadline));
  SHARDSTEP_RETURN_IF_ERROR(CompareRequests(rendezvous_, request, options_.rank_names, options_.setup_deadline));
  buckets_ = static_cast<int>(request.buckets.size());
  SHARDSTEP_RETURN_IF_ERROR(ShareArenas(request.private_weights));
  PlaceShards(request.buckets);
  allocated_.store(true);
  return absl::OkStatus();
}

absl::Status SharedMemoryCommunicator::ShareArenas(bool private_weights) {
  const int64_t gradient_bytes = std::max<int64_t>(sizes_.gradient_bytes, 1);
  const int64_t weight_bytes = std::max<int64_t>(sizes_.weight_bytes, 1);
  std::vector<SharedRegionRequest> requests;
  for (int rank = 0; rank < world_size_; ++rank) {
    // Frozen parameters have gradients that nobody touches.
    requests.push_back({rank, gradient_bytes, PageAccess::kRead, PageBacking::kOnFirstUse,
                        absl::StrCat("gradient arena of rank ", job_.NameOf(rank))});
  }
  if (!private_weights) {
    requests.push_back({0, weight_bytes, PageAccess::kWrite, PageBacking::kOnCreation, "weight arena"});
  }
  for (int rank = 0; private_weights && rank < world_size_; ++rank) {
    requests.push_back({rank, weight_bytes, PageAccess::kWrite, PageBacking::kOnCreation,
                        absl::StrCat("weight arena of rank ", job_.NameOf(rank))});
  }
  requests.push_back({0, std::max<int64_t>(BucketControl::SizeBytes(buckets_, world_size_), 1), PageAccess::kWrite,
                      PageBacking::kOnCreation, "bucket counters"});
  SHARDSTEP_ASSIGN_OR_RETURN(std::vector<std::unique_ptr<Region>> regions,
                             ShareRegions(rendezvous_, *provider_, requests, "Allocate", options_.setup_deadline));
  counter_region_ = std::move(regions.back());
  regions.pop_back();
  const auto weights_begin = regions.begin() + world_size_;
  gradient_regions_.assign(std::make_move_iterator(regions.begin()), std::make_move_iterator(weights_begin));
  weight_regions_.assign(std::make_move_iterator(weights_begin), std::make_move_iterator(regions.end()));
  counters_ = BucketControl(counter_region_->view(), buckets_, world_size_);
  return absl::OkStatus();
}

void SharedMemoryCommunicator::PlaceShards(absl::Span<const BucketExtent> buckets) {
  for (const BucketExtent& extent : buckets) {
    const int64_t shard = rank_ * extent.shard_elements;
    const int64_t weight_offset = extent.weight_begin_byte + shard * SizeBytes(extent.weight_dtype);
    destinations_.push_back(CopyOf(rank_) + weight_offset);
    for (int peer = 0; weight_regions_.size() > 1 && peer < world_size_; ++peer) {
      if (peer != rank_) destinations_.push_back(CopyOf(peer) + weight_offset);
    }
    const int64_t gradient_offset = extent.gradient_begin_byte + shard * SizeBytes(extent.gradient_dtype);
    for (int peer = 0; peer < world_size_; ++peer) {
      slices_.push_back({GradientsOf(peer) + gradient_offset, extent.gradient_dtype, peer});
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
  for (int peer = 1; peer < world_size_; ++peer) result.Merge(job_.slot(peer, number));
  *reduction = result;
  return absl::OkStatus();
}

absl::Status CheckOptions(const SharedMemoryOptions& options, int world_size) {
  if (options.wait_deadline <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat("wait_deadline = ", absl::FormatDuration(options.wait_deadline), " is not positive"));
  }
  if (options.setup_deadline <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat("setup_deadline = ", absl::FormatDuration(options.setup_deadline), " is not positive"));
  }
  const size_t names = options.rank_names.size();
  if (names != 0 && names != static_cast<size_t>(world_size)) {
    return absl::InvalidArgumentError(absl::StrCat("rank_names: ", names, " names for ", world_size, " ranks"));
  }
  return absl::OkStatus();
}

// FailedPrecondition, the same on every rank, unless all of them passed the same `mine`.
absl::Status CompareText(Rendezvous& rendezvous, absl::string_view what, const std::string& mine,
                         const SharedMemoryOptions& options) {
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                             rendezvous.AllGatherBytes(absl::StrCat("Create: ", what), mine, options.setup_deadline));
  const auto name = [&](size_t r) { return options.rank_names.empty() ? static_cast<int>(r) : options.rank_names[r]; };
  absl::Status equal;
  for (size_t rank = 1; rank < all.size() && equal.ok(); ++rank) {
    if (all[rank] == all[0]) continue;
    equal = absl::FailedPreconditionError(absl::StrCat("Create: ", what, " differs: rank ", name(0), " has ", all[0],
                                                       ", rank ", name(rank), " has ", all[rank]));
  }
  // All ranks that compared know the same; other groups of the same meeting have to hear of it.
  const absl::Status agreed =
      AgreeOnStatus(rendezvous, absl::StrCat("Create: ", what, " compared"), equal, options.setup_deadline);
  return equal.ok() ? agreed : equal;
}

absl::StatusOr<std::unique_ptr<Communicator>> Create(Rendezvous& rendezvous, const SharedMemoryOptions& options,
                                                     std::unique_ptr<RegionProvider> provider) {
  const absl::Status valid = CheckOptions(options, rendezvous.world_size());
  const absl::Duration deadline = valid.ok() ? options.setup_deadline : SharedMemoryOptions().setup_deadline;
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(rendezvous, "Create: options", valid, deadline));
  SHARDSTEP_RETURN_IF_ERROR(
      CompareText(rendezvous, "host_id", options.host_id.empty() ? DefaultHostId() : options.host_id, options));
  SHARDSTEP_RETURN_IF_ERROR(
      CompareText(rendezvous, "control layout", absl::StrCat("version ", kControlLayout), options));
  const SharedRegionRequest control{0, JobControl::SizeBytes(rendezvous.world_size()), PageAccess::kWrite,
                                    PageBacking::kOnCreation, "job control"};
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
