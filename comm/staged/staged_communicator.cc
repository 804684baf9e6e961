#include "shardstep/comm/staged/staged_communicator.h"

#include <utility>

#include "shardstep/comm/host_stream.h"
#include "shardstep/comm/shm/arena_extents.h"
#include "shardstep/comm/staged/staged_communicator_impl.h"

namespace shardstep {
namespace {

// What no machine has, and no sum of a few overflows.
constexpr int64_t kTooManyBytes = int64_t{1} << 58;

// Slices of as many exchanges of a bucket stay where readers got them.
constexpr size_t kKeptExchanges = 16;

}  // namespace

// ---- Beginning and end ----------------------------------------------------------------------------------------------

absl::Status StagedCommunicator::MakeLanes() {
  if (options_.landing_buckets < 1) {
    return absl::InvalidArgumentError(absl::StrCat("landing_buckets = ", options_.landing_buckets, " is not positive"));
  }
  if (rendezvous_.rank() != rank() || rendezvous_.world_size() != world_size()) {
    return absl::InvalidArgumentError(absl::StrCat("inner: rank ", rank(), " of ", world_size(), ", the rendezvous is ",
                                                   rendezvous_.rank(), " of ", rendezvous_.world_size()));
  }
  if (alone()) {
    SHARDSTEP_ASSIGN_OR_RETURN(relay_, CudaStream::Create(device_, "staging: relay"));
    failure_->Watch(relay_.get());
    return absl::OkStatus();
  }
  SHARDSTEP_ASSIGN_OR_RETURN(words_, memory_.AllocateForBoth(sizeof(SmallReduction), "words of a reduction"));
  const std::pair<std::unique_ptr<StagedLane>*, const char*> lanes[] = {{&leaving_, "staging: leaving"},
                                                                        {&arriving_, "staging: arriving"},
                                                                        {&publishing_, "staging: publishing"},
                                                                        {&published_, "staging: published"},
                                                                        {&reducing_, "staging: reducing"}};
  for (const auto& [lane, name] : lanes) {
    SHARDSTEP_ASSIGN_OR_RETURN(*lane, StagedLane::Create(device_, memory_, failure_, name));
  }
  return absl::OkStatus();
}

StagedCommunicator::~StagedCommunicator() {
  std::unique_ptr<StagedLane>* const lanes[] = {&leaving_, &arriving_, &publishing_, &published_, &reducing_};
  for (const auto* const lane : lanes) {
    if (*lane == nullptr || !(*lane)->busy()) continue;
    inner_->Abort(absl::CancelledError("its staged communicator was destroyed while operations were under way"));
    break;
  }
  for (auto* const lane : lanes) lane->reset();
  if (relay_ != nullptr) failure_->Unwatch(relay_.get());
}

// ---- Arenas ---------------------------------------------------------------------------------------------------------

absl::Status StagedCommunicator::Allocate(const ArenaRequest& request) {
  if (std::exchange(allocate_called_, true)) return absl::FailedPreconditionError("Allocate: called twice");
  const absl::Duration deadline = options_.setup_deadline;
  const absl::StatusOr<ArenaSizes> sizes = MeasureArenas(request, world_size());
  const absl::Status valid = sizes.ok() ? CheckRequest(request) : sizes.status();
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(rendezvous_, "Allocate: arguments", valid, deadline));
  SHARDSTEP_RETURN_IF_ERROR(
      AgreeOnStatus(rendezvous_, "Allocate: memory of devices",
                    StagedArenas::Plan(request, *sizes, options_.landing_buckets, memory_, &layout_), deadline));
  if (!alone()) {
    SHARDSTEP_RETURN_IF_ERROR(inner_->Allocate({.buckets = request.buckets, .contributions = request.contributions}));
  }
  SHARDSTEP_RETURN_IF_ERROR(
      AgreeOnStatus(rendezvous_, "Allocate: arenas of devices", MakeArenas(request, *sizes), deadline));
  allocated_.store(true);
  return absl::OkStatus();
}

int64_t StagedCommunicator::LandingBytes(const ArenaRequest& request) const {
  if (layout_.world_size == 1) return 0;
  StagedLayout layout = layout_;
  layout.buckets.assign(request.buckets.begin(), request.buckets.end());
  layout.contributions = request.contributions;
  return options_.landing_buckets * layout.LandingSlotBytes().value_or(kTooManyBytes / options_.landing_buckets);
}

absl::Status StagedCommunicator::CheckRequest(const ArenaRequest& request) const {
  if (request.weights.data == nullptr || memory_.Reaches(request.weights)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("weights: not memory of device ", device_.device));
}

absl::Status StagedCommunicator::MakeArenas(const ArenaRequest& request, const ArenaSizes& sizes) {
  SHARDSTEP_ASSIGN_OR_RETURN(
      arenas_, StagedArenas::Make(request, sizes, options_.landing_buckets, device_, memory_, *inner_, &layout_));
  for (int b = 0; b < static_cast<int>(layout_.buckets.size()); ++b) destinations_.push_back(layout_.OwnWeights(b));
  const MutexLock lock(&mutex_);
  states_.resize(layout_.buckets.size());
  landings_.resize(static_cast<size_t>(options_.landing_buckets));
  stagings_.resize(kStagingSlots);
  return absl::OkStatus();
}

// ---- Calls ----------------------------------------------------------------------------------------------------------

absl::StatusOr<CudaStream*> StagedCommunicator::CheckStream(absl::string_view name, Stream& stream) const {
  SHARDSTEP_ASSIGN_OR_RETURN(CudaStream* const caller, AsCudaStream(stream, name));
  if (caller->device().api != device_.api || caller->device().device != device_.device) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": stream of device ", caller->device().device,
                                                   ", the communicator is on device ", device_.device));
  }
  SHARDSTEP_RETURN_IF_ERROR(AsyncStatus());
  caller->FailsWith(failure_);
  SHARDSTEP_RETURN_IF_ERROR(caller->status());
  return caller;
}

absl::StatusOr<CudaStream*> StagedCommunicator::Check(const Call& call, Stream& stream) const {
  if (!allocated_.load()) return absl::FailedPreconditionError(absl::StrCat(call.name, ": before Allocate"));
  if (call.bucket < 0 || call.bucket >= static_cast<int>(layout_.buckets.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat(call.name, ": bucket = ", call.bucket, ", there are ", layout_.buckets.size()));
  }
  if (call.number < 0) {
    return absl::InvalidArgumentError(absl::StrCat(call.name, ": ", call.unit, " = ", call.number, " is negative"));
  }
  return CheckStream(call.name, stream);
}

absl::Status StagedCommunicator::CheckContributions(absl::Span<const Slice> contributions) const {
  if (static_cast<int>(contributions.size()) != layout_.contributions) {
    return absl::InvalidArgumentError(absl::StrCat("Exchange: contributions = ", contributions.size(),
                                                   ", Allocate was told ", layout_.contributions));
  }
  for (const Slice& slice : contributions) {
    if (slice.dtype == DType::kBf16 || slice.dtype == DType::kFp32) continue;
    return absl::InvalidArgumentError(absl::StrCat("Exchange: contributions of ", Name(slice.dtype)));
  }
  return absl::OkStatus();
}

absl::StatusOr<Event> StagedCommunicator::Relay(CudaStream& caller) {
  relay_->Wait(caller.Record());
  const Event event = relay_->Record();
  SHARDSTEP_RETURN_IF_ERROR(caller.status());
  SHARDSTEP_RETURN_IF_ERROR(relay_->status());
  return event;
}

absl::StatusOr<Event> StagedCommunicator::Enqueue(StagedLane& lane, absl::Span<const Event> after,
                                                  StagedLane::Work work) {
  absl::StatusOr<Event> event = lane.Enqueue(after, std::move(work));
  failure_->Set(event.status());
  return event;
}

absl::Status StagedCommunicator::Do(InnerCall call) {
  InlineStream stream;
  SHARDSTEP_RETURN_IF_ERROR(call(stream));
  return stream.status();
}

// ---- Gradients ------------------------------------------------------------------------------------------------------

absl::Status StagedCommunicator::Exchange(int bucket, int64_t micro_step, absl::Span<const Slice> contributions,
                                          Stream& stream) {
  const Call call{"Exchange", "micro-step", bucket, micro_step};
  SHARDSTEP_ASSIGN_OR_RETURN(CudaStream* const caller, Check(call, stream));
  SHARDSTEP_RETURN_IF_ERROR(CheckContributions(contributions));
  const Slice own = layout_.contributions > 0 ? Slice() : layout_.OwnGradients(bucket);
  const absl::Span<const Slice> mine = layout_.contributions > 0 ? contributions : absl::MakeConstSpan(&own, 1);

  const MutexLock lock(&mutex_);
  BucketState& of_bucket = state(bucket);
  if (of_bucket.exchanged >= micro_step) {
    return absl::FailedPreconditionError(
        absl::StrCat(call.Text(), ": micro-step ", of_bucket.exchanged, " is already done"));
  }
  std::vector<Slice> slices = layout_.Slices(bucket, mine, exchanges_ % options_.landing_buckets);
  if (alone()) {
    SHARDSTEP_ASSIGN_OR_RETURN(of_bucket.landed, Relay(*caller));
  } else {
    SHARDSTEP_RETURN_IF_ERROR(EnqueueExchange(call, mine, slices, *caller));
  }
  ++exchanges_;
  of_bucket.exchanged = micro_step;
  of_bucket.slices[micro_step] = std::move(slices);
  if (of_bucket.slices.size() > kKeptExchanges) of_bucket.slices.erase(of_bucket.slices.begin());
  return absl::OkStatus();
}

absl::Status StagedCommunicator::EnqueueExchange(const Call& call, absl::Span<const Slice> mine,
                                                 const std::vector<Slice>& slices, CudaStream& caller) {
  BucketState& of_bucket = state(call.bucket);
  ExchangeState& landing = landings_[static_cast<size_t>(exchanges_) % landings_.size()];
  if (landing.bucket >= 0 && !landing.released) {
    return absl::FailedPreconditionError(absl::StrCat(call.Text(), ": its landing slot holds bucket ", landing.bucket,
                                                      ", micro-step ", landing.micro_step, ", not released"));
  }
  const int64_t staging_slot = exchanges_ % kStagingSlots;
  const bool contributes = layout_.contributions > 0;
  // The exchange that last left from the same memory of the host.
  ExchangeState before = stagings_[static_cast<size_t>(staging_slot)];
  if (!contributes) {
    before = {.bucket = of_bucket.exchanged < 0 ? -1 : call.bucket,
              .micro_step = of_bucket.exchanged,
              .landed = of_bucket.landed};
  }
  std::vector<Slice> on_host = layout_.OnHost(call.bucket, mine, staging_slot);
  SHARDSTEP_ASSIGN_OR_RETURN(
      of_bucket.left,
      Enqueue(*leaving_, {caller.Record(), before.landed},
              [this, before, copies = layout_.Leaving(call.bucket, mine, on_host, slices)](StagedLane& lane) {
                const auto await = [&](Stream& s) {
                  return inner_->AwaitReleased(before.bucket, before.micro_step, s);
                };
                if (before.bucket >= 0) SHARDSTEP_RETURN_IF_ERROR(Do(await));
                return lane.Copy(copies);
              }));
  if (!contributes) on_host.clear();
  SHARDSTEP_ASSIGN_OR_RETURN(of_bucket.landed,
                             Enqueue(*arriving_, {of_bucket.left}, [this, call, on_host, slices](StagedLane& lane) {
                               return Arrive(lane, call, on_host, slices);
                             }));
  landing = {.bucket = call.bucket, .micro_step = call.number};
  stagings_[static_cast<size_t>(staging_slot)] = {
      .bucket = call.bucket, .micro_step = call.number, .landed = of_bucket.landed};
  return absl::OkStatus();
}

absl::Status StagedCommunicator::Arrive(StagedLane& lane, const Call& call, absl::Span<const Slice> contributions,
                                        absl::Span<const Slice> slices) {
  const int b = call.bucket;
  const int64_t k = call.number;
  SHARDSTEP_RETURN_IF_ERROR(Do([&](Stream& s) { return inner_->Exchange(b, k, contributions, s); }));
  SHARDSTEP_RETURN_IF_ERROR(Do([&](Stream& s) { return inner_->AwaitSlices(b, k, s); }));
  const absl::Span<const Slice> arrived = inner_->slices(b, k);
  if (arrived.size() != slices.size()) {
    return absl::InternalError(
        absl::StrCat(call.Text(), ": there are ", arrived.size(), " slices, not ", slices.size()));
  }
  SHARDSTEP_RETURN_IF_ERROR(lane.Copy(layout_.Arriving(b, arrived, slices)));
  return Do([&](Stream& s) { return inner_->Release(b, k, s); });
}

absl::Status StagedCommunicator::AwaitSlices(int bucket, int64_t micro_step, Stream& stream) {
  const Call call{"AwaitSlices", "micro-step", bucket, micro_step};
  SHARDSTEP_ASSIGN_OR_RETURN(CudaStream* const caller, Check(call, stream));
  const MutexLock lock(&mutex_);
  if (state(bucket).exchanged < micro_step) {
    return absl::FailedPreconditionError(absl::StrCat(call.Text(), ": before its Exchange"));
  }
  caller->Wait(state(bucket).landed);
  return caller->status();
}

absl::Span<const Slice> StagedCommunicator::slices(int bucket, int64_t micro_step) {
  const MutexLock lock(&mutex_);
  const auto found = state(bucket).slices.find(micro_step);
  return found == state(bucket).slices.end() ? absl::Span<const Slice>() : absl::MakeConstSpan(found->second);
}

absl::Status StagedCommunicator::Release(int bucket, int64_t micro_step, Stream& stream) {
  const Call call{"Release", "micro-step", bucket, micro_step};
  SHARDSTEP_ASSIGN_OR_RETURN(CudaStream* const caller, Check(call, stream));
  const MutexLock lock(&mutex_);
  if (state(bucket).exchanged < micro_step) {
    return absl::FailedPreconditionError(absl::StrCat(call.Text(), ": before its Exchange"));
  }
  if (alone()) {
    SHARDSTEP_ASSIGN_OR_RETURN(state(bucket).released_event, Relay(*caller));
  }
  state(bucket).released = micro_step;
  for (ExchangeState& landing : landings_) {
    if (landing.bucket == bucket && landing.micro_step == micro_step) landing.released = true;
  }
  return absl::OkStatus();
}

absl::Status StagedCommunicator::AwaitReleased(int bucket, int64_t micro_step, Stream& stream) {
  const Call call{"AwaitReleased", "micro-step", bucket, micro_step};
  SHARDSTEP_ASSIGN_OR_RETURN(CudaStream* const caller, Check(call, stream));
  const MutexLock lock(&mutex_);
  const BucketState& of_bucket = state(bucket);
  // Alone, slices are the gradients themselves; otherwise owners have copies, this rank among them.
  if ((alone() ? of_bucket.released : of_bucket.exchanged) < micro_step) {
    return absl::FailedPreconditionError(absl::StrCat(call.Text(), ": before its ", alone() ? "Release" : "Exchange"));
  }
  caller->Wait(alone() ? of_bucket.released_event : of_bucket.left);
  return caller->status();
}

// ---- Decision and weights -------------------------------------------------------------------------------------------

absl::Status StagedCommunicator::AllReduceSmall(SmallReduction* reduction, Stream& stream) {
  SHARDSTEP_ASSIGN_OR_RETURN(CudaStream* const caller, CheckStream("AllReduceSmall", stream));
  if (alone()) return absl::OkStatus();
  const MutexLock lock(&mutex_);
  SHARDSTEP_ASSIGN_OR_RETURN(
      const Event reduced,
      Enqueue(*reducing_, {caller->Record()}, [this, reduction](StagedLane& lane) { return Reduce(lane, reduction); }));
  caller->Wait(reduced);
  return caller->status();
}

absl::Status StagedCommunicator::Reduce(StagedLane& lane, SmallReduction* reduction) {
  auto* const words = words_.as<SmallReduction>();
  constexpr auto kBytes = static_cast<int64_t>(sizeof(SmallReduction));
  SHARDSTEP_RETURN_IF_ERROR(lane.Copy({{words, reduction, kBytes}}));
  SHARDSTEP_RETURN_IF_ERROR(Do([&](Stream& s) { return inner_->AllReduceSmall(words, s); }));
  return lane.Copy({{reduction, words, kBytes}});
}

absl::Status StagedCommunicator::Publish(int bucket, int64_t step, Stream& stream) {
  const Call call{"Publish", "step", bucket, step};
  SHARDSTEP_ASSIGN_OR_RETURN(CudaStream* const caller, Check(call, stream));
  const MutexLock lock(&mutex_);
  BucketState& of_bucket = state(bucket);
  if (of_bucket.published >= step) {
    return absl::FailedPreconditionError(absl::StrCat(call.Text(), ": step ", of_bucket.published, " is already done"));
  }
  if (alone()) {
    SHARDSTEP_ASSIGN_OR_RETURN(of_bucket.published_event, Relay(*caller));
  } else {
    SHARDSTEP_ASSIGN_OR_RETURN(
        const Event publishing,
        Enqueue(*publishing_, {caller->Record(), of_bucket.published_event}, [this, bucket, step](StagedLane& lane) {
          SHARDSTEP_RETURN_IF_ERROR(lane.Copy(layout_.Publishing(bucket)));
          return Do([&](Stream& s) { return inner_->Publish(bucket, step, s); });
        }));
    SHARDSTEP_ASSIGN_OR_RETURN(
        of_bucket.published_event, Enqueue(*published_, {publishing}, [this, bucket, step](StagedLane& lane) {
          SHARDSTEP_RETURN_IF_ERROR(Do([&](Stream& s) { return inner_->AwaitPublished(bucket, step, s); }));
          return lane.Copy(layout_.Published(bucket));
        }));
  }
  of_bucket.published = step;
  return absl::OkStatus();
}

absl::Status StagedCommunicator::AwaitPublished(int bucket, int64_t step, Stream& stream) {
  const Call call{"AwaitPublished", "step", bucket, step};
  SHARDSTEP_ASSIGN_OR_RETURN(CudaStream* const caller, Check(call, stream));
  const MutexLock lock(&mutex_);
  if (state(bucket).published < step) {
    return absl::FailedPreconditionError(absl::StrCat(call.Text(), ": before its Publish"));
  }
  caller->Wait(state(bucket).published_event);
  return caller->status();
}

absl::StatusOr<std::unique_ptr<Communicator>> CreateStagedCommunicator(const CudaDeviceRef& device, Memory& memory,
                                                                       Rendezvous& rendezvous,
                                                                       std::unique_ptr<Communicator> inner,
                                                                       const StagedOptions& options) {
  auto communicator = std::make_unique<StagedCommunicator>(device, memory, rendezvous, std::move(inner), options);
  SHARDSTEP_RETURN_IF_ERROR(
      AgreeOnStatus(rendezvous, "Create: staging", communicator->MakeLanes(), options.setup_deadline));
  return communicator;
}

}  // namespace shardstep
