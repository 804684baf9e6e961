#include "shardstep/comm/mpi/mpi_communicator.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "shardstep/comm/group_rendezvous.h"
#include "shardstep/comm/host_memory.h"
#include "shardstep/comm/mpi/mpi_agreement.h"
#include "shardstep/comm/mpi/mpi_control.h"
#include "shardstep/comm/mpi/mpi_rendezvous_impl.h"
#include "shardstep/comm/mpi/operation_log.h"
#include "shardstep/comm/shm/arena_extents.h"

namespace shardstep {
namespace {

// How long the destructor waits for messages under way; after a failure most of them will never get through.
constexpr absl::Duration kFarewell = absl::Seconds(1);
constexpr absl::Duration kFarewellOfFailed = absl::Milliseconds(200);

absl::StatusOr<HostStream*> AsHostStream(Stream& stream, absl::string_view operation) {
  auto* host_stream = dynamic_cast<HostStream*>(&stream);
  if (host_stream == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(operation, ": stream is not a host stream"));
  }
  return host_stream;
}

// MPI may go on touching it.
void LeaveForever(Buffer buffer) { static_cast<void>(new Buffer(std::move(buffer))); }

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(MpiRendezvous& rendezvous, const std::vector<int>& members, MessageTags tags,
                  const MpiCommunicatorOptions& options)
      : rendezvous_(rendezvous),
        group_(rendezvous, members),
        members_(members),
        options_(options),
        job_(rendezvous.rank(), rendezvous.world_size()),
        control_(rendezvous.rank(), rendezvous.world_size(), members, options, &job_),
        progress_(rendezvous.impl().comm(), tags, members,
                  rendezvous.world_size() > 1 || options.other_failure != nullptr, &job_, &control_) {
    plan_.rank = group_.rank();
    plan_.world_size = group_.world_size();
    plan_.tags = tags;
    plan_.longest_message_bytes = LongestMessageBytes(options.max_message_bytes);
    control_.Attach(&progress_);
    progress_.Start();
  }

  ~MpiCommunicator() override {
    if (progress_.Stop(job_.failed() ? kFarewellOfFailed : kFarewell)) return;
    const bool weights_were_given = weights_.data != own_weights_.view().data;
    if (weights_were_given || plan_.contributions > 0) rendezvous_.impl().LeaveUnfinalized();
    for (Buffer* buffer : {&gradients_, &own_weights_, &landing_}) LeaveForever(std::move(*buffer));
  }
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  int rank() const override { return plan_.rank; }
  int world_size() const override { return plan_.world_size; }
  CommunicatorTraits traits() const override {
    return {.slices_persist = false,
            .landing_buckets = options_.landing_buckets,
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

  void Abort(const absl::Status& reason) override { control_.Abort(reason); }
  absl::Status AsyncStatus() const override { return job_.failure(); }
  void SetAway(absl::Duration duration) override { control_.SetAway(duration); }

 private:
  using Key = std::pair<int, int64_t>;
  struct NumberedExchange {
    int slot = 0;
    std::vector<Message> messages;
  };

  absl::Status MakeArenas(const ArenaRequest& request, const ArenaSizes& sizes);
  /// Of a stream-ordered operation: its stream, or what is wrong with the call.
  absl::StatusOr<HostStream*> Check(absl::string_view operation, absl::string_view unit, int bucket, int64_t number,
                                    Stream& stream) const;
  absl::StatusOr<NumberedExchange> AddExchange(int bucket, int64_t micro_step, absl::Span<const Slice> contributions);
  absl::Status BeginExchange(int bucket, int64_t micro_step, const NumberedExchange& exchange);
  absl::Status EndExchange(int bucket, int64_t micro_step);
  absl::Status BeginPublish(int bucket, int64_t step);
  absl::Status Await(absl::FunctionRef<std::string()> operation, absl::FunctionRef<std::vector<int>()> absent_members);

  MpiRendezvous& rendezvous_;
  GroupRendezvous group_;
  const std::vector<int> members_;
  const MpiCommunicatorOptions options_;
  JobState job_;
  MpiControl control_;
  MpiProgress progress_;

  bool allocate_called_ = false;
  std::atomic<bool> allocated_ = false;
  DataPlan plan_;
  Buffer gradients_;
  Buffer own_weights_;  ///< empty when they were given
  BufferView weights_;
  Buffer landing_;
  int64_t slot_bytes_ = 0;
  std::vector<void*> destinations_;  ///< by bucket

  // Guarded by job_.mutex().
  OperationLog exchanges_{0, "micro-step"};
  OperationLog publishes_{0, "step"};
  LandingRing ring_{1};
  std::map<Key, std::vector<Slice>> slices_;  ///< from Exchange to Release
};

absl::Status MpiCommunicator::Allocate(const ArenaRequest& request) {
  if (std::exchange(allocate_called_, true)) return absl::FailedPreconditionError("Allocate: called twice");
  const absl::Duration deadline = options_.setup_deadline;
  const absl::StatusOr<ArenaSizes> sizes = MeasureArenas(request, plan_.world_size);
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(rendezvous_, "Allocate: arguments", sizes.status(), deadline));
  const absl::Status equal = CompareRequests(group_, request, members_, deadline);
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(rendezvous_, "Allocate: buckets", equal, deadline));
  return AgreeOnStatus(rendezvous_, "Allocate: memory", MakeArenas(request, *sizes), deadline);
}

absl::Status MpiCommunicator::MakeArenas(const ArenaRequest& request, const ArenaSizes& sizes) {
  DataPlan plan = plan_;
  plan.buckets.assign(request.buckets.begin(), request.buckets.end());
  plan.contributions = request.contributions;
  SHARDSTEP_ASSIGN_OR_RETURN(slot_bytes_, plan.SlotBytes());
  int64_t landing_bytes = 0;
  int64_t all_bytes = 0;
  const int64_t made_weights = request.weights.data == nullptr ? sizes.weight_bytes : 0;
  if (__builtin_mul_overflow(slot_bytes_, int64_t{options_.landing_buckets}, &landing_bytes) ||
      __builtin_add_overflow(sizes.gradient_bytes + made_weights, landing_bytes, &all_bytes)) {
    return absl::ResourceExhaustedError("landing slots: more bytes than can be counted");
  }
  SHARDSTEP_RETURN_IF_ERROR(CheckMemoryAvailable(all_bytes, "arenas and landing slots"));
  SHARDSTEP_ASSIGN_OR_RETURN(gradients_,
                             Buffer::Allocate(sizes.gradient_bytes, "gradient arena", PageBacking::kOnFirstUse));
  SHARDSTEP_ASSIGN_OR_RETURN(own_weights_, Buffer::Allocate(made_weights, "weight arena"));
  const PageBacking backing = request.contributions > 0 ? PageBacking::kOnFirstUse : PageBacking::kOnCreation;
  SHARDSTEP_ASSIGN_OR_RETURN(landing_, Buffer::Allocate(landing_bytes, "landing slots", backing));
  weights_ = {request.weights.data != nullptr ? request.weights.data : own_weights_.view().data, sizes.weight_bytes};
  plan.gradients = gradients_.view().data;
  plan.weights = weights_.data;
  plan.landing = landing_.view().data;
  for (const BucketExtent& extent : plan.buckets) {
    destinations_.push_back(plan.weights + extent.weight_begin_byte +
                            plan.rank * extent.shard_elements * SizeBytes(extent.weight_dtype));
  }
  const MutexLock lock(&job_.mutex());
  exchanges_ = OperationLog(static_cast<int>(plan.buckets.size()), "micro-step");
  publishes_ = OperationLog(static_cast<int>(plan.buckets.size()), "step");
  ring_ = LandingRing(options_.landing_buckets);
  plan_ = std::move(plan);
  allocated_.store(true);
  return absl::OkStatus();
}

absl::StatusOr<HostStream*> MpiCommunicator::Check(absl::string_view operation, absl::string_view unit, int bucket,
                                                   int64_t number, Stream& stream) const {
  if (!allocated_.load()) return absl::FailedPreconditionError(absl::StrCat(operation, ": before Allocate"));
  if (bucket < 0 || bucket >= static_cast<int>(plan_.buckets.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat(operation, ": bucket = ", bucket, ", there are ", plan_.buckets.size()));
  }
  if (number < 0) {
    return absl::InvalidArgumentError(absl::StrCat(operation, ": ", unit, " = ", number, " is negative"));
  }
  return AsHostStream(stream, operation);
}

absl::Status MpiCommunicator::Await(absl::FunctionRef<std::string()> operation,
                                    absl::FunctionRef<std::vector<int>()> absent_members) {
  return job_.Await({.deadline = options_.wait_deadline, .operation = operation, .absent = [&] {
                       std::vector<int> ranks = absent_members();
                       for (int& rank : ranks) rank = members_[static_cast<size_t>(rank)];
                       std::sort(ranks.begin(), ranks.end());
                       return ranks;
                     }});
}

// ---- Gradients ------------------------------------------------------------------------------------------------------

absl::Status MpiCommunicator::Exchange(int bucket, int64_t micro_step, absl::Span<const Slice> contributions,
                                       Stream& stream) {
  SHARDSTEP_ASSIGN_OR_RETURN(HostStream* const host_stream,
                             Check("Exchange", "micro-step", bucket, micro_step, stream));
  if (static_cast<int>(contributions.size()) != plan_.contributions) {
    return absl::InvalidArgumentError(
        absl::StrCat("Exchange: contributions = ", contributions.size(), ", Allocate was told ", plan_.contributions));
  }
  for (const Slice& slice : contributions) {
    if (slice.dtype == DType::kBf16 || slice.dtype == DType::kFp32) continue;
    return absl::InvalidArgumentError(absl::StrCat("Exchange: contributions of ", Name(slice.dtype)));
  }
  SHARDSTEP_ASSIGN_OR_RETURN(NumberedExchange exchange, AddExchange(bucket, micro_step, contributions));
  host_stream->Enqueue(
      "", [=, this, exchange = std::move(exchange)] { return BeginExchange(bucket, micro_step, exchange); });
  return absl::OkStatus();
}

absl::StatusOr<MpiCommunicator::NumberedExchange> MpiCommunicator::AddExchange(int bucket, int64_t micro_step,
                                                                               absl::Span<const Slice> contributions) {
  const Slice own = plan_.contributions > 0 ? Slice() : plan_.OwnGradients(bucket);
  const MutexLock lock(&job_.mutex());
  if (exchanges_.begun(bucket, micro_step) || slices_.contains({bucket, micro_step})) {
    return absl::FailedPreconditionError(
        absl::StrCat(exchanges_.Name("Exchange", bucket, micro_step), ": micro-step ", micro_step, " is already done"));
  }
  const int slot = ring_.Next();
  DataPlan::Exchange exchange = plan_.PlanExchange(
      bucket, micro_step, plan_.contributions > 0 ? contributions : absl::MakeConstSpan(&own, 1), slot * slot_bytes_);
  slices_[{bucket, micro_step}] = std::move(exchange.slices);
  return NumberedExchange{slot, std::move(exchange.messages)};
}

absl::Status MpiCommunicator::BeginExchange(int bucket, int64_t micro_step, const NumberedExchange& exchange) {
  const auto transfer =
      std::make_shared<Transfer>(exchanges_.Name("Exchange", bucket, micro_step), plan_.world_size, exchange.messages);
  const auto operation = [&] {
    const LandingRing::User& user = ring_.user(exchange.slot);
    return absl::StrCat(transfer->name, " (its landing slot holds bucket ", user.bucket, ", micro-step ",
                        user.micro_step, ")");
  };
  absl::Status begun;
  SHARDSTEP_RETURN_IF_ERROR(Await(operation, [&]() -> std::vector<int> {
    if (!ring_.is_free(exchange.slot)) return {plan_.rank};
    begun = exchanges_.Begin("Exchange", bucket, micro_step, transfer);
    if (begun.ok()) ring_.Take(exchange.slot, {bucket, micro_step});
    return {};
  }));
  SHARDSTEP_RETURN_IF_ERROR(begun);
  progress_.Post(exchange.messages, transfer);
  job_.Changed();
  return absl::OkStatus();
}

absl::Status MpiCommunicator::AwaitSlices(int bucket, int64_t micro_step, Stream& stream) {
  SHARDSTEP_ASSIGN_OR_RETURN(HostStream* const host_stream,
                             Check("AwaitSlices", "micro-step", bucket, micro_step, stream));
  host_stream->Enqueue("", [=, this] {
    return Await([&] { return exchanges_.Name("AwaitSlices", bucket, micro_step); },
                 [&] { return exchanges_.NotReceived(bucket, micro_step, plan_.rank); });
  });
  return absl::OkStatus();
}

absl::Span<const Slice> MpiCommunicator::slices(int bucket, int64_t micro_step) {
  const MutexLock lock(&job_.mutex());
  const auto found = slices_.find({bucket, micro_step});
  return found == slices_.end() ? absl::Span<const Slice>() : found->second;
}

absl::Status MpiCommunicator::Release(int bucket, int64_t micro_step, Stream& stream) {
  SHARDSTEP_ASSIGN_OR_RETURN(HostStream* const host_stream, Check("Release", "micro-step", bucket, micro_step, stream));
  host_stream->Enqueue("", [=, this] { return EndExchange(bucket, micro_step); });
  return absl::OkStatus();
}

absl::Status MpiCommunicator::EndExchange(int bucket, int64_t micro_step) {
  {
    const MutexLock lock(&job_.mutex());
    if (!job_.failed() && !exchanges_.NotReceived(bucket, micro_step, plan_.rank).empty()) {
      return absl::FailedPreconditionError(
          absl::StrCat(exchanges_.Name("Release", bucket, micro_step), ": its slices have not arrived"));
    }
    ring_.Free(bucket, micro_step);
    slices_.erase({bucket, micro_step});
  }
  job_.Changed();
  return absl::OkStatus();
}

// The own slice lies in the own gradients, hence the own release; others have a copy once they have taken the message.
absl::Status MpiCommunicator::AwaitReleased(int bucket, int64_t micro_step, Stream& stream) {
  SHARDSTEP_ASSIGN_OR_RETURN(HostStream* const host_stream,
                             Check("AwaitReleased", "micro-step", bucket, micro_step, stream));
  host_stream->Enqueue("", [=, this] {
    return Await([&] { return exchanges_.Name("AwaitReleased", bucket, micro_step); },
                 [&] {
                   std::vector<int> members = exchanges_.NotTaken(bucket, micro_step, plan_.rank);
                   if (members.empty() && slices_.contains({bucket, micro_step})) members.push_back(plan_.rank);
                   return members;
                 });
  });
  return absl::OkStatus();
}

absl::Status MpiCommunicator::AllReduceSmall(SmallReduction* reduction, Stream& stream) {
  SHARDSTEP_ASSIGN_OR_RETURN(HostStream* const host_stream, AsHostStream(stream, "AllReduceSmall"));
  host_stream->Enqueue("", [=, this] { return control_.AllReduceSmall(reduction); });
  return absl::OkStatus();
}

// ---- Weights --------------------------------------------------------------------------------------------------------

absl::Status MpiCommunicator::Publish(int bucket, int64_t step, Stream& stream) {
  SHARDSTEP_ASSIGN_OR_RETURN(HostStream* const host_stream, Check("Publish", "step", bucket, step, stream));
  host_stream->Enqueue("", [=, this] { return BeginPublish(bucket, step); });
  return absl::OkStatus();
}

// Others send only after the decision of the step, in which this rank took part when it needed its old weights no more.
absl::Status MpiCommunicator::BeginPublish(int bucket, int64_t step) {
  SHARDSTEP_RETURN_IF_ERROR(job_.failure());
  std::vector<Message> messages = plan_.PlanPublish(bucket, step);
  const auto transfer =
      std::make_shared<Transfer>(publishes_.Name("Publish", bucket, step), plan_.world_size, messages);
  {
    const MutexLock lock(&job_.mutex());
    SHARDSTEP_RETURN_IF_ERROR(publishes_.Begin("Publish", bucket, step, transfer));
  }
  progress_.Post(std::move(messages), transfer);
  job_.Changed();
  return absl::OkStatus();
}

absl::Status MpiCommunicator::AwaitPublished(int bucket, int64_t step, Stream& stream) {
  SHARDSTEP_ASSIGN_OR_RETURN(HostStream* const host_stream, Check("AwaitPublished", "step", bucket, step, stream));
  host_stream->Enqueue("", [=, this] {
    return Await([&] { return publishes_.Name("AwaitPublished", bucket, step); },
                 [&] {
                   std::vector<int> members = publishes_.NotReceived(bucket, step, plan_.rank);
                   return members.empty() ? publishes_.NotTaken(bucket, step, plan_.rank) : members;
                 });
  });
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> CreateMpiCommunicator(MpiRendezvous& rendezvous,
                                                                    const std::vector<int>& members,
                                                                    const MpiCommunicatorOptions& options) {
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnMembers(rendezvous, members, options));
  SHARDSTEP_ASSIGN_OR_RETURN(const int first_tag, rendezvous.impl().TakeTags(kTagsPerCommunicator));
  return std::make_unique<MpiCommunicator>(rendezvous, members, MessageTags{first_tag}, options);
}

}  // namespace shardstep
