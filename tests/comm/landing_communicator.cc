#include "shardstep/tests/comm/landing_communicator.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "shardstep/comm/host_memory.h"
#include "shardstep/comm/shm/arena_extents.h"
#include "shardstep/tests/comm/landing_table.h"

namespace shardstep {
namespace {

constexpr absl::Duration kSetupDeadline = absl::Minutes(10);
constexpr int kPoison = 0xff;

/// Looks after the failures of this level and another one, from a thread of its own.
class FailureWatch {
 public:
  FailureWatch(std::shared_ptr<LandingJob> job, const LandingOptions& options)
      : job_(std::move(job)), other_failure_(options.other_failure), on_failure_(options.on_failure) {
    if (other_failure_ || on_failure_) thread_ = std::thread([this] { Loop(); });
  }
  ~FailureWatch() {
    ending_.store(true);
    if (thread_.joinable()) thread_.join();
  }
  FailureWatch(const FailureWatch&) = delete;
  FailureWatch& operator=(const FailureWatch&) = delete;

 private:
  void Loop() {
    while (!ending_.load()) {
      const absl::Status other = other_failure_ ? other_failure_() : absl::OkStatus();
      if (!other.ok()) job_->Fail(other);
      const absl::Status failure = job_->failure();
      if (!failure.ok()) {
        if (on_failure_) on_failure_(failure);
        return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }

  const std::shared_ptr<LandingJob> job_;
  const std::function<absl::Status()> other_failure_;
  const std::function<void(const absl::Status&)> on_failure_;
  std::atomic<bool> ending_ = false;
  std::thread thread_;
};

absl::StatusOr<HostStream*> AsHostStream(Stream& stream, absl::string_view operation) {
  auto* const host_stream = dynamic_cast<HostStream*>(&stream);
  if (host_stream == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(operation, ": stream is not a host stream"));
  }
  return host_stream;
}

class LandingCommunicator final : public Communicator {
 public:
  LandingCommunicator(Rendezvous& rendezvous, const LandingOptions& options, std::shared_ptr<LandingJob> job,
                      std::shared_ptr<LandingGroup> group)
      : rendezvous_(rendezvous),
        rank_(rendezvous.rank()),
        world_size_(rendezvous.world_size()),
        options_(options),
        job_(std::move(job)),
        group_(std::move(group)),
        watch_(job_, options) {}

  int rank() const override { return rank_; }
  int world_size() const override { return world_size_; }
  CommunicatorTraits traits() const override {
    return {.slices_persist = false,
            .landing_buckets = kLandingSlots,
            .separate_exchange_stream = true,
            .joins_hosts = true};
  }

  absl::Status Allocate(const ArenaRequest& request) override;
  BufferView gradients() override { return gradients_.view(); }
  BufferView weights() override { return weights_; }

  absl::Status Exchange(int bucket, int64_t micro_step, absl::Span<const Slice> contributions, Stream& stream) override;
  absl::Status AwaitSlices(int bucket, int64_t micro_step, Stream& stream) override;
  absl::Span<const Slice> slices(int bucket, int64_t micro_step) override;
  absl::Status Release(int bucket, int64_t micro_step, Stream& stream) override;
  absl::Status AwaitReleased(int bucket, int64_t micro_step, Stream& stream) override;

  absl::Status AllReduceSmall(SmallReduction* reduction, Stream& stream) override;

  absl::Span<void* const> Destinations(int bucket) override {
    return absl::MakeConstSpan(destinations_).subspan(static_cast<size_t>(bucket), 1);
  }
  absl::Status Publish(int bucket, int64_t step, Stream& stream) override;
  absl::Status AwaitPublished(int bucket, int64_t step, Stream& stream) override;

  void Abort(const absl::Status& reason) override {
    job_->Fail(AbortedBy(NameOf(rank_), CauseOf(reason), absl::StrCat("aborted: ", reason.message())));
  }
  absl::Status AsyncStatus() const override { return job_->failure(); }
  void SetAway(absl::Duration duration) override { job_->SetAway(rendezvous_.everyone().rank(), duration); }

 private:
  /// One exchange as this rank has issued it.
  struct Landing {
    int64_t number = 0;
    std::vector<Slice> slices;
  };
  struct Operation {
    absl::string_view name;
    absl::string_view unit;
    int bucket = 0;
    int64_t number = 0;  ///< of the micro-step or step
    std::string Text() const { return absl::StrCat(name, " of bucket ", bucket, ", ", unit, " ", number); }
  };

  int NameOf(int rank) const {
    return options_.rank_names.empty() ? rank : options_.rank_names[static_cast<size_t>(rank)];
  }
  LandingRank& state(int rank) { return group_->ranks[static_cast<size_t>(rank)]; }
  static LandingSlot& slot(LandingRank& rank, int64_t number) {
    return rank.slots[static_cast<size_t>(number % kLandingSlots)];
  }
  const BucketExtent& extent(int bucket) const { return buckets_[static_cast<size_t>(bucket)]; }

  absl::StatusOr<HostStream*> Check(const Operation& operation, Stream& stream) const;
  /// Names of the ranks for which `is_missing`.
  std::vector<int> Names(absl::FunctionRef<bool(int rank)> is_missing) const;
  absl::Status Await(MutexLock& lock, const Operation& operation, absl::FunctionRef<bool(int rank)> is_missing);
  absl::StatusOr<int64_t> NumberOf(const Operation& operation) ABSL_LOCKS_EXCLUDED(landings_mutex_);

  absl::Status MakeArenas(const ArenaRequest& request);
  absl::Status CheckContributions(absl::Span<const Slice> contributions) const;
  absl::StatusOr<int64_t> AddLanding(const Operation& operation, absl::Span<const Slice> contributions);
  absl::Status Send(const Operation& operation, int64_t number, const std::vector<Slice>& contributions);
  absl::Status Poison(const Operation& operation, int64_t number);
  absl::Status CopyShard(const Operation& operation);
  absl::Status Reduce(SmallReduction* reduction);

  Rendezvous& rendezvous_;
  const int rank_;
  const int world_size_;
  const LandingOptions options_;
  const std::shared_ptr<LandingJob> job_;
  const std::shared_ptr<LandingGroup> group_;

  bool allocate_called_ = false;
  std::atomic<bool> allocated_ = false;
  std::vector<BucketExtent> buckets_;
  int contributions_ = 0;
  int64_t slice_bytes_ = 0;  ///< between two slices of a slot
  Buffer gradients_;
  BufferView weights_;
  std::vector<void*> destinations_;  ///< one per bucket

  Mutex landings_mutex_;
  /// By bucket and micro-step; kept, as readers may hold their spans.
  std::map<std::pair<int, int64_t>, Landing> landings_ ABSL_GUARDED_BY(landings_mutex_);

  FailureWatch watch_;
};

absl::Status LandingCommunicator::Allocate(const ArenaRequest& request) {
  if (std::exchange(allocate_called_, true)) return absl::FailedPreconditionError("Allocate: called twice");
  const absl::Status valid = MeasureArenas(request, world_size_).status();
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(rendezvous_, "Allocate: arguments", valid, kSetupDeadline));
  SHARDSTEP_RETURN_IF_ERROR(CompareRequests(rendezvous_, request, options_.rank_names, kSetupDeadline));
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(rendezvous_, "Allocate: memory", MakeArenas(request), kSetupDeadline));
  allocated_.store(true);
  return absl::OkStatus();
}

absl::Status LandingCommunicator::MakeArenas(const ArenaRequest& request) {
  SHARDSTEP_ASSIGN_OR_RETURN(const ArenaSizes sizes, MeasureArenas(request, world_size_));
  SHARDSTEP_RETURN_IF_ERROR(CheckMemoryAvailable(sizes.gradient_bytes + sizes.weight_bytes, "arenas"));
  SHARDSTEP_ASSIGN_OR_RETURN(gradients_, Buffer::Allocate(sizes.gradient_bytes, "gradient arena"));
  const MutexLock lock(&job_->mutex());
  LandingRank& mine = state(rank_);
  weights_ = {request.weights.data, sizes.weight_bytes};
  if (request.weights.data == nullptr) {
    SHARDSTEP_ASSIGN_OR_RETURN(Buffer buffer, Buffer::Allocate(sizes.weight_bytes, "weight arena"));
    mine.own_weights = std::make_shared<Buffer>(std::move(buffer));
    weights_ = mine.own_weights->view();
  }
  mine.weights = weights_.data;
  buckets_.assign(request.buckets.begin(), request.buckets.end());
  contributions_ = request.contributions;
  mine.sent.resize(buckets_.size());
  mine.published.resize(buckets_.size());
  for (const BucketExtent& bucket : buckets_) {
    const int64_t element_bytes = contributions_ > 0 ? SizeBytes(DType::kFp32) : SizeBytes(bucket.gradient_dtype);
    slice_bytes_ = std::max(slice_bytes_, (bucket.shard_elements * element_bytes + 63) / 64 * 64);
    destinations_.push_back(weights_.data + bucket.weight_begin_byte +
                            rank_ * bucket.shard_elements * SizeBytes(bucket.weight_dtype));
  }
  for (int64_t i = 0; i < kLandingSlots; ++i) {
    const auto slices = static_cast<size_t>(world_size_) * static_cast<size_t>(std::max(contributions_, 1));
    slot(mine, i).next = i;
    slot(mine, i).arrived.assign(static_cast<size_t>(world_size_), -1);
    slot(mine, i).bytes.assign(slices * static_cast<size_t>(slice_bytes_), static_cast<std::byte>(kPoison));
  }
  return absl::OkStatus();
}

absl::StatusOr<HostStream*> LandingCommunicator::Check(const Operation& operation, Stream& stream) const {
  if (!allocated_.load()) return absl::FailedPreconditionError(absl::StrCat(operation.name, ": before Allocate"));
  if (operation.bucket < 0 || operation.bucket >= static_cast<int>(buckets_.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat(operation.name, ": bucket = ", operation.bucket, ", there are ", buckets_.size()));
  }
  if (operation.number < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(operation.name, ": ", operation.unit, " = ", operation.number, " is negative"));
  }
  return AsHostStream(stream, operation.name);
}

std::vector<int> LandingCommunicator::Names(absl::FunctionRef<bool(int rank)> is_missing) const {
  std::vector<int> names;
  for (int rank = 0; rank < world_size_; ++rank) {
    if (is_missing(rank)) names.push_back(NameOf(rank));
  }
  return names;
}

absl::Status LandingCommunicator::Await(MutexLock& lock, const Operation& operation,
                                        absl::FunctionRef<bool(int rank)> is_missing) {
  return job_->Await(
      lock, options_.wait_deadline, [&] { return operation.Text(); }, [&] { return Names(is_missing); });
}

absl::Status LandingCommunicator::CheckContributions(absl::Span<const Slice> contributions) const {
  if (contributions.size() != static_cast<size_t>(contributions_)) {
    return absl::InvalidArgumentError(
        absl::StrCat("Exchange: contributions = ", contributions.size(), ", Allocate was told ", contributions_));
  }
  return absl::OkStatus();
}

// The number of an exchange is its place in the order in which this rank issues them.
absl::StatusOr<int64_t> LandingCommunicator::AddLanding(const Operation& operation,
                                                        absl::Span<const Slice> contributions) {
  const MutexLock lock(&landings_mutex_);
  const auto [landing, is_new] = landings_.emplace(std::make_pair(operation.bucket, operation.number), Landing{});
  if (!is_new) {
    return absl::FailedPreconditionError(
        absl::StrCat(operation.Text(), ": ", operation.unit, " ", operation.number, " is already done"));
  }
  const auto number = static_cast<int64_t>(landings_.size()) - 1;
  landing->second.number = number;
  std::byte* data = slot(state(rank_), number).bytes.data();
  for (int sender = 0; sender < world_size_; ++sender) {
    for (Slice slice : contributions) {
      slice.rank = sender;
      slice.data = data;
      landing->second.slices.push_back(slice);
      data += slice_bytes_;
    }
  }
  return number;
}

absl::StatusOr<int64_t> LandingCommunicator::NumberOf(const Operation& operation) {
  const MutexLock lock(&landings_mutex_);
  const auto landing = landings_.find({operation.bucket, operation.number});
  if (landing == landings_.end()) {
    return absl::FailedPreconditionError(absl::StrCat(operation.Text(), ": before its Exchange"));
  }
  return landing->second.number;
}

absl::Status LandingCommunicator::Exchange(int bucket, int64_t micro_step, absl::Span<const Slice> contributions,
                                           Stream& stream) {
  const Operation operation{"Exchange", "micro-step", bucket, micro_step};
  SHARDSTEP_ASSIGN_OR_RETURN(HostStream* const host_stream, Check(operation, stream));
  SHARDSTEP_RETURN_IF_ERROR(CheckContributions(contributions));
  std::vector<Slice> sent(contributions.begin(), contributions.end());
  if (sent.empty()) {
    sent.push_back(
        {.data = gradients_.view().data + extent(bucket).gradient_begin_byte, .dtype = extent(bucket).gradient_dtype});
  }
  SHARDSTEP_ASSIGN_OR_RETURN(const int64_t number, AddLanding(operation, sent));
  host_stream->Enqueue("", [=, this] { return Send(operation, number, sent); });
  return absl::OkStatus();
}

absl::Status LandingCommunicator::Send(const Operation& operation, int64_t number,
                                       const std::vector<Slice>& contributions) {
  const std::pair<int, int64_t> mine{operation.bucket, operation.number};
  {
    MutexLock lock(&job_->mutex());
    if (static_cast<int64_t>(group_->order.size()) == number) group_->order.push_back(mine);
    const auto [bucket, micro_step] = group_->order[static_cast<size_t>(number)];
    if (std::make_pair(bucket, micro_step) != mine) {
      return absl::FailedPreconditionError(absl::StrCat(operation.Text(), ": is exchange ", number, " of rank ",
                                                        NameOf(rank_), ", of another rank that is bucket ", bucket,
                                                        ", micro-step ", micro_step));
    }
    SHARDSTEP_RETURN_IF_ERROR(
        Await(lock, operation, [&](int owner) { return slot(state(owner), number).next != number; }));
  }
  for (int owner = 0; owner < world_size_; ++owner) {
    std::byte* to =
        slot(state(owner), number).bytes.data() + rank_ * static_cast<int64_t>(contributions.size()) * slice_bytes_;
    for (const Slice& contribution : contributions) {
      const int64_t shard_bytes = extent(operation.bucket).shard_elements * SizeBytes(contribution.dtype);
      if (shard_bytes > 0) {
        std::memcpy(to, static_cast<const std::byte*>(contribution.data) + owner * shard_bytes,
                    static_cast<size_t>(shard_bytes));
      }
      to += slice_bytes_;
    }
  }
  const MutexLock lock(&job_->mutex());
  for (int owner = 0; owner < world_size_; ++owner) {
    slot(state(owner), number).arrived[static_cast<size_t>(rank_)] = number;
  }
  state(rank_).sent[static_cast<size_t>(operation.bucket)] = operation.number + 1;
  job_->NotifyAll();
  return absl::OkStatus();
}

absl::Status LandingCommunicator::AwaitSlices(int bucket, int64_t micro_step, Stream& stream) {
  const Operation operation{"AwaitSlices", "micro-step", bucket, micro_step};
  SHARDSTEP_ASSIGN_OR_RETURN(HostStream* const host_stream, Check(operation, stream));
  SHARDSTEP_ASSIGN_OR_RETURN(const int64_t number, NumberOf(operation));
  host_stream->Enqueue("", [=, this] {
    MutexLock lock(&job_->mutex());
    const LandingSlot& landing = slot(state(rank_), number);
    return Await(lock, operation, [&](int sender) { return landing.arrived[static_cast<size_t>(sender)] < number; });
  });
  return absl::OkStatus();
}

absl::Span<const Slice> LandingCommunicator::slices(int bucket, int64_t micro_step) {
  const MutexLock lock(&landings_mutex_);
  const auto landing = landings_.find({bucket, micro_step});
  return landing == landings_.end() ? absl::Span<const Slice>() : absl::MakeConstSpan(landing->second.slices);
}

absl::Status LandingCommunicator::Release(int bucket, int64_t micro_step, Stream& stream) {
  const Operation operation{"Release", "micro-step", bucket, micro_step};
  SHARDSTEP_ASSIGN_OR_RETURN(HostStream* const host_stream, Check(operation, stream));
  SHARDSTEP_ASSIGN_OR_RETURN(const int64_t number, NumberOf(operation));
  host_stream->Enqueue("", [=, this] { return Poison(operation, number); });
  return absl::OkStatus();
}

absl::Status LandingCommunicator::Poison(const Operation& operation, int64_t number) {
  LandingSlot& landing = slot(state(rank_), number);
  {
    const MutexLock lock(&job_->mutex());
    SHARDSTEP_RETURN_IF_ERROR(job_->FailureLocked());
    if (landing.next > number) {
      return absl::FailedPreconditionError(
          absl::StrCat(operation.Text(), ": micro-step ", operation.number, " is already done"));
    }
    for (int sender = 0; sender < world_size_; ++sender) {
      if (landing.arrived[static_cast<size_t>(sender)] == number) continue;
      return absl::FailedPreconditionError(
          absl::StrCat(operation.Text(), ": the slice of rank ", NameOf(sender), " has not arrived"));
    }
  }
  std::fill(landing.bytes.begin(), landing.bytes.end(), static_cast<std::byte>(kPoison));
  const MutexLock lock(&job_->mutex());
  landing.next = number + kLandingSlots;
  job_->NotifyAll();
  return absl::OkStatus();
}

absl::Status LandingCommunicator::AwaitReleased(int bucket, int64_t micro_step, Stream& stream) {
  const Operation operation{"AwaitReleased", "micro-step", bucket, micro_step};
  SHARDSTEP_ASSIGN_OR_RETURN(HostStream* const host_stream, Check(operation, stream));
  SHARDSTEP_ASSIGN_OR_RETURN(const int64_t number, NumberOf(operation));
  host_stream->Enqueue("", [=, this] {
    MutexLock lock(&job_->mutex());
    return Await(lock, operation, [&](int owner) {
      if (state(rank_).sent[static_cast<size_t>(bucket)] > micro_step) return false;
      return owner == rank_ || slot(state(owner), number).next != number;
    });
  });
  return absl::OkStatus();
}

absl::Status LandingCommunicator::Publish(int bucket, int64_t step, Stream& stream) {
  const Operation operation{"Publish", "step", bucket, step};
  SHARDSTEP_ASSIGN_OR_RETURN(HostStream* const host_stream, Check(operation, stream));
  host_stream->Enqueue("", [=, this] { return CopyShard(operation); });
  return absl::OkStatus();
}

// Whoever may still read its old weights has not come to the small all-reduce that is before all updates: no wait.
absl::Status LandingCommunicator::CopyShard(const Operation& operation) {
  const BucketExtent& bucket = extent(operation.bucket);
  const int64_t shard_bytes = bucket.shard_elements * SizeBytes(bucket.weight_dtype);
  const int64_t offset = bucket.weight_begin_byte + rank_ * shard_bytes;
  for (int peer = 0; peer < world_size_; ++peer) {
    if (peer == rank_ || shard_bytes == 0) continue;
    std::memcpy(state(peer).weights + offset, weights_.data + offset, static_cast<size_t>(shard_bytes));
  }
  const MutexLock lock(&job_->mutex());
  int64_t& published = state(rank_).published[static_cast<size_t>(operation.bucket)];
  if (published > operation.number) {
    return absl::FailedPreconditionError(absl::StrCat(operation.Text(), ": step ", published - 1, " is already done"));
  }
  published = operation.number + 1;
  job_->NotifyAll();
  return absl::OkStatus();
}

absl::Status LandingCommunicator::AwaitPublished(int bucket, int64_t step, Stream& stream) {
  const Operation operation{"AwaitPublished", "step", bucket, step};
  SHARDSTEP_ASSIGN_OR_RETURN(HostStream* const host_stream, Check(operation, stream));
  host_stream->Enqueue("", [=, this] {
    MutexLock lock(&job_->mutex());
    return Await(lock, operation,
                 [&](int owner) { return state(owner).published[static_cast<size_t>(bucket)] <= step; });
  });
  return absl::OkStatus();
}

absl::Status LandingCommunicator::AllReduceSmall(SmallReduction* reduction, Stream& stream) {
  SHARDSTEP_ASSIGN_OR_RETURN(HostStream* const host_stream, AsHostStream(stream, "AllReduceSmall"));
  host_stream->Enqueue("", [=, this] { return Reduce(reduction); });
  return absl::OkStatus();
}

// Two slots suffice: who writes slot n + 2 has seen everyone at n + 1, hence done with reading n.
absl::Status LandingCommunicator::Reduce(SmallReduction* reduction) {
  MutexLock lock(&job_->mutex());
  const int64_t number = state(rank_).reduced++;
  const auto parity = static_cast<size_t>(number % 2);
  state(rank_).reductions[parity] = *reduction;
  job_->NotifyAll();
  SHARDSTEP_RETURN_IF_ERROR(job_->Await(
      lock, options_.wait_deadline, [&] { return absl::StrCat("AllReduceSmall number ", number); },
      [&] { return Names([&](int rank) { return state(rank).reduced <= number; }); }));
  SmallReduction result = state(0).reductions[parity];
  for (int rank = 1; rank < world_size_; ++rank) result.Merge(state(rank).reductions[parity]);
  *reduction = result;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> CreateLandingCommunicator(Rendezvous& rendezvous,
                                                                        const LandingOptions& options) {
  Rendezvous& everyone = rendezvous.everyone();
  SHARDSTEP_ASSIGN_OR_RETURN(
      std::shared_ptr<LandingJob> job,
      ShareObject(everyone, "Create: job", std::make_shared<LandingJob>(everyone.world_size()), kSetupDeadline));
  SHARDSTEP_ASSIGN_OR_RETURN(std::shared_ptr<LandingGroup> group,
                             ShareObject(rendezvous, "Create: group",
                                         std::make_shared<LandingGroup>(rendezvous.world_size()), kSetupDeadline));
  return std::make_unique<LandingCommunicator>(rendezvous, options, std::move(job), std::move(group));
}

}  // namespace shardstep
