#include "shardstep/comm/nccl/nccl_communicator.h"

#include <array>
#include <atomic>
#include <utility>

#include "absl/functional/function_ref.h"
#include "shardstep/comm/nccl/landing_layout.h"
#include "shardstep/comm/nccl/nccl_setup.h"
#include "shardstep/comm/nccl/nccl_watch.h"
#include "shardstep/comm/shm/arena_extents.h"

namespace shardstep {
namespace {

// What no machine has, and no sum of a few overflows.
constexpr int64_t kTooManyBytes = int64_t{1} << 58;

// How long destruction waits for NCCL to finish by itself.
constexpr absl::Duration kFarewell = absl::Seconds(5);

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(NcclApi& nccl, const CudaDeviceRef& device, Memory& memory, Rendezvous& rendezvous,
                   const NcclOptions& options)
      : device_(device), memory_(memory), rendezvous_(rendezvous), options_(options), link_(nccl), queue_(device) {
    layout_.rank = rendezvous.rank();
    layout_.world_size = rendezvous.world_size();
    layout_.exchange = options.exchange;
  }
  ~NcclCommunicator() override;
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  /// Collective: what Create does, after the members exist.
  absl::Status Connect(NcclApi& nccl);

  int rank() const override { return layout_.rank; }
  int world_size() const override { return layout_.world_size; }
  CommunicatorTraits traits() const override;

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

  void Abort(const absl::Status& reason) override;
  void Settle() override;
  int64_t LandingBytes(const ArenaRequest& request) const override;
  absl::Status AsyncStatus() const override { return failure_->status(); }
  void SetAway(absl::Duration duration) override {
    if (watch_ != nullptr) watch_->SetAway(duration);
  }

 private:
  /// Where one bucket is, as far as calls have gone; numbers are the last ones, -1: none yet.
  struct BucketState {
    int64_t exchanged = -1;
    int64_t released = -1;
    int64_t published = -1;
    std::vector<Slice> slices;  ///< of exchange `exchanged`
    CudaEvent exchanged_event;
    CudaEvent released_event;
    CudaEvent published_event;

    std::array<CudaEvent*, 3> events() { return {&exchanged_event, &released_event, &published_event}; }
  };
  struct SlotUser {
    int bucket = -1;  ///< -1: nobody
    int64_t micro_step = 0;
  };
  struct Call {
    absl::string_view name;
    absl::string_view unit;
    int bucket = 0;
    int64_t number = 0;
    std::string Text() const { return absl::StrCat(name, " of bucket ", bucket, ", ", unit, " ", number); }
  };

  bool alone() const { return layout_.world_size == 1; }
  absl::Status AllocateTogether(const ArenaRequest& request);
  absl::Status MakeArenas(const ArenaRequest& request, const ArenaSizes& sizes);
  absl::Status CheckRequest(const ArenaRequest& request) const;
  /// The stream of a call, or what is wrong with it.
  absl::StatusOr<CudaStream*> Check(const Call& call, Stream& stream) const;
  absl::StatusOr<CudaStream*> CheckStream(absl::string_view name, Stream& stream) const;
  absl::Status CheckContributions(absl::Span<const Slice> contributions) const;
  absl::Status CheckOrder(const Call& exchange, int64_t slot) ABSL_LOCKS_EXCLUDED(state_mutex_);
  /// Enqueues `calls` on the wire, after what `caller` has been given so far.
  absl::Status Issue(const NcclOperation& operation, CudaStream& caller, absl::FunctionRef<void(NcclCalls&)> calls)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(issue_mutex_);
  absl::Status CallNccl(const NcclOperation& operation, absl::FunctionRef<void(NcclCalls&)> calls, bool in_graph)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(issue_mutex_);
  /// With its deadline.
  absl::Status CallWatched(const NcclOperation& operation, absl::FunctionRef<void(NcclCalls&)> calls)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(issue_mutex_);
  BucketState& state(int bucket) ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_) {
    return states_[static_cast<size_t>(bucket)];
  }

  const CudaDeviceRef device_;
  Memory& memory_;
  Rendezvous& rendezvous_;
  const NcclOptions options_;
  const std::shared_ptr<NcclFailure> failure_ = std::make_shared<NcclFailure>();

  bool allocate_called_ = false;
  std::atomic<bool> allocated_ = false;
  LandingLayout layout_;
  Buffer gradients_;
  Buffer own_weights_;  ///< empty when they were given
  BufferView weights_;
  Buffer landing_;
  std::vector<void*> destinations_;  ///< by bucket

  /// Held by a call while it enqueues: NCCL matches operations by their order.
  Mutex issue_mutex_;
  int64_t exchanges_ ABSL_GUARDED_BY(issue_mutex_) = 0;
  int64_t reductions_ ABSL_GUARDED_BY(issue_mutex_) = 0;
  Mutex state_mutex_;
  std::vector<BucketState> states_ ABSL_GUARDED_BY(state_mutex_);   ///< by bucket
  std::vector<SlotUser> slot_users_ ABSL_GUARDED_BY(state_mutex_);  ///< by slot

  std::unique_ptr<CudaStream> wire_;  ///< what NCCL runs on; none when alone
  NcclLink link_;
  OperationQueue queue_;
  std::unique_ptr<NcclWatch> watch_;  ///< none when alone
};

// ---- Beginning and end ----------------------------------------------------------------------------------------------

absl::Status NcclCommunicator::Connect(NcclApi& nccl) {
  absl::StatusOr<std::unique_ptr<CudaStream>> wire = CudaStream::Create(device_, "NCCL");
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnNccl(nccl, device_, rendezvous_, options_, wire.status()));
  if (alone()) return absl::OkStatus();
  wire_ = *std::move(wire);
  layout_.all_to_all = nccl.HasAllToAll();
  SHARDSTEP_RETURN_IF_ERROR(ConnectNccl(nccl, device_, rendezvous_, options_, link_));
  watch_ = std::make_unique<NcclWatch>(device_, rendezvous_, link_, queue_, failure_,
                                       NcclWatchOptions{.wait_deadline = options_.wait_deadline,
                                                        .setup_deadline = options_.setup_deadline,
                                                        .heartbeat = options_.heartbeat,
                                                        .rank_names = options_.rank_names,
                                                        .other_failure = options_.other_failure,
                                                        .on_failure = options_.on_failure,
                                                        .other_away = options_.other_away,
                                                        .on_away = options_.on_away});
  return absl::OkStatus();
}

NcclCommunicator::~NcclCommunicator() {
  const bool connected = watch_ != nullptr;
  watch_.reset();
  if (wire_ == nullptr) return;
  const absl::StatusOr<OperationQueue::Progress> progress = queue_.Look();
  const bool idle = progress.ok() && progress->finished == progress->issued;
  if (connected && idle) {
    link_.Close(kFarewell);
  } else {
    link_.Abort();
  }
  // Nothing may still move when the arenas go.
  device_.api->StreamSynchronize(wire_->handle());
}

CommunicatorTraits NcclCommunicator::traits() const {
  const bool adds = options_.exchange == NcclExchange::kReduceScatter;
  return {.slices_persist = false,
          .landing_buckets = options_.landing_buckets,
          .separate_exchange_stream = true,
          .joins_hosts = !adds,
          .memory_at_once = true,
          .captures = true,
          .inexact_mode = adds && !alone() ? "nccl_reduce_scatter" : nullptr};
}

int64_t NcclCommunicator::LandingBytes(const ArenaRequest& request) const {
  LandingLayout layout = layout_;
  layout.buckets.assign(request.buckets.begin(), request.buckets.end());
  layout.contributions = request.contributions;
  return options_.landing_buckets * layout.SlotBytes().value_or(kTooManyBytes / options_.landing_buckets);
}

void NcclCommunicator::Abort(const absl::Status& reason) {
  if (watch_ != nullptr) return watch_->Abort(reason);
  const int name = options_.rank_names.empty() ? layout_.rank : options_.rank_names[0];
  const absl::Status status = AbortedBy(name, CauseOf(reason), absl::StrCat("aborted: ", reason.message()));
  failure_->Set(status, status);
}

void NcclCommunicator::Settle() {
  if (wire_ != nullptr) wire_->Settle();
  const MutexLock lock(&state_mutex_);
  for (BucketState& bucket : states_) {
    for (CudaEvent* const event : bucket.events()) event->Settle();
  }
}

// ---- Arenas ---------------------------------------------------------------------------------------------------------

absl::Status NcclCommunicator::Allocate(const ArenaRequest& request) {
  if (std::exchange(allocate_called_, true)) return absl::FailedPreconditionError("Allocate: called twice");
  if (watch_ == nullptr) return AllocateTogether(request);
  SHARDSTEP_RETURN_IF_ERROR(watch_->Borrow("Allocate"));
  const absl::Status allocated = AllocateTogether(request);
  watch_->Return();
  return allocated;
}

absl::Status NcclCommunicator::AllocateTogether(const ArenaRequest& request) {
  const absl::Duration deadline = options_.setup_deadline;
  const absl::StatusOr<ArenaSizes> sizes = MeasureArenas(request, layout_.world_size);
  const absl::Status valid = sizes.ok() ? CheckRequest(request) : sizes.status();
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(rendezvous_, "Allocate: arguments", valid, deadline));
  SHARDSTEP_RETURN_IF_ERROR(CompareRequests(rendezvous_, request, options_.rank_names, deadline));
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(rendezvous_, "Allocate: memory", MakeArenas(request, *sizes), deadline));
  allocated_.store(true);
  return absl::OkStatus();
}

absl::Status NcclCommunicator::CheckRequest(const ArenaRequest& request) const {
  if (request.contributions > 0 && options_.exchange == NcclExchange::kReduceScatter) {
    return absl::InvalidArgumentError(
        absl::StrCat("contributions = ", request.contributions, ": exchange = nccl_reduce_scatter takes none"));
  }
  if (request.weights.data != nullptr && !memory_.Reaches(request.weights)) {
    return absl::InvalidArgumentError(absl::StrCat("weights: not memory of device ", device_.device));
  }
  return absl::OkStatus();
}

absl::Status NcclCommunicator::MakeArenas(const ArenaRequest& request, const ArenaSizes& sizes) {
  LandingLayout layout = layout_;
  layout.buckets.assign(request.buckets.begin(), request.buckets.end());
  layout.contributions = request.contributions;
  SHARDSTEP_ASSIGN_OR_RETURN(layout.slot_bytes, layout.SlotBytes());
  const int64_t made_weights = request.weights.data == nullptr ? sizes.weight_bytes : 0;
  int64_t landing_bytes = 0;
  int64_t all_bytes = 0;
  if (__builtin_mul_overflow(layout.slot_bytes, int64_t{options_.landing_buckets}, &landing_bytes) ||
      __builtin_add_overflow(sizes.gradient_bytes + made_weights, landing_bytes, &all_bytes)) {
    return absl::ResourceExhaustedError("landing slots: more bytes than can be counted");
  }
  SHARDSTEP_RETURN_IF_ERROR(memory_.CheckAvailable(all_bytes, "arenas and landing slots"));
  constexpr PageBacking kNow = PageBacking::kOnCreation;
  SHARDSTEP_ASSIGN_OR_RETURN(gradients_, memory_.Allocate(sizes.gradient_bytes, "gradient arena", kNow));
  SHARDSTEP_ASSIGN_OR_RETURN(own_weights_, memory_.Allocate(made_weights, "weight arena", kNow));
  SHARDSTEP_ASSIGN_OR_RETURN(landing_, memory_.Allocate(landing_bytes, "landing slots", kNow));
  weights_ = {request.weights.data != nullptr ? request.weights.data : own_weights_.view().data, sizes.weight_bytes};
  layout.gradients = gradients_.view().data;
  layout.weights = weights_.data;
  layout.landing = landing_.view().data;
  std::vector<BucketState> states(layout.buckets.size());
  for (int b = 0; b < static_cast<int>(states.size()); ++b) {
    BucketState& bucket = states[static_cast<size_t>(b)];
    for (CudaEvent* const event : bucket.events()) {
      SHARDSTEP_ASSIGN_OR_RETURN(*event, CudaEvent::Create(device_));
    }
    destinations_.push_back(layout.Weights(b) + layout.rank * layout.WeightShardBytes(b));
  }
  layout_ = std::move(layout);
  const MutexLock lock(&state_mutex_);
  states_ = std::move(states);
  slot_users_.resize(static_cast<size_t>(options_.landing_buckets));
  return absl::OkStatus();
}

// ---- Calls ----------------------------------------------------------------------------------------------------------

absl::StatusOr<CudaStream*> NcclCommunicator::CheckStream(absl::string_view name, Stream& stream) const {
  SHARDSTEP_ASSIGN_OR_RETURN(CudaStream* const caller, AsCudaStream(stream, name));
  if (caller->device().device != device_.device) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": stream of device ", caller->device().device,
                                                   ", the communicator is on device ", device_.device));
  }
  SHARDSTEP_RETURN_IF_ERROR(failure_->status());
  caller->FailsWith(failure_);
  return caller;
}

absl::StatusOr<CudaStream*> NcclCommunicator::Check(const Call& call, Stream& stream) const {
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

absl::Status NcclCommunicator::CheckContributions(absl::Span<const Slice> contributions) const {
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

absl::Status NcclCommunicator::Issue(const NcclOperation& operation, CudaStream& caller,
                                     absl::FunctionRef<void(NcclCalls&)> calls) {
  wire_->Wait(caller.Record());
  SHARDSTEP_RETURN_IF_ERROR(caller.status());
  absl::Status issued = wire_->status();
  bool capturing = false;
  if (issued.ok()) {
    const int error = device_.api->StreamIsCapturing(wire_->handle(), &capturing);
    issued = CudaStatus(*device_.api, error, "cudaStreamIsCapturing");
  }
  if (issued.ok()) issued = capturing ? CallNccl(operation, calls, /*in_graph=*/true) : CallWatched(operation, calls);
  if (issued.ok()) return absl::OkStatus();
  watch_->Fail(issued);
  // Why the link had ended before says more than that it had.
  return failure_->status();
}

absl::Status NcclCommunicator::CallNccl(const NcclOperation& operation, absl::FunctionRef<void(NcclCalls&)> calls,
                                        bool in_graph) {
  return link_.Issue([&] { return operation.Name(); }, wire_->handle(), calls, in_graph);
}

absl::Status NcclCommunicator::CallWatched(const NcclOperation& operation, absl::FunctionRef<void(NcclCalls&)> calls) {
  SHARDSTEP_RETURN_IF_ERROR(queue_.Begin(operation, *wire_));
  SHARDSTEP_RETURN_IF_ERROR(CallNccl(operation, calls, /*in_graph=*/false));
  return queue_.End(*wire_);
}

absl::Status NcclCommunicator::CheckOrder(const Call& exchange, int64_t slot) {
  const MutexLock lock(&state_mutex_);
  const int64_t last = state(exchange.bucket).exchanged;
  if (last >= exchange.number) {
    return absl::FailedPreconditionError(absl::StrCat(exchange.Text(), ": micro-step ", last, " is already done"));
  }
  const SlotUser& user = slot_users_[static_cast<size_t>(slot)];
  if (user.bucket < 0 || state(user.bucket).released >= user.micro_step) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(exchange.Text(), ": its landing slot holds bucket ", user.bucket,
                                                    ", micro-step ", user.micro_step, ", which is not released"));
}

absl::Status NcclCommunicator::Exchange(int bucket, int64_t micro_step, absl::Span<const Slice> contributions,
                                        Stream& stream) {
  const Call call{"Exchange", "micro-step", bucket, micro_step};
  SHARDSTEP_ASSIGN_OR_RETURN(CudaStream* const caller, Check(call, stream));
  SHARDSTEP_RETURN_IF_ERROR(CheckContributions(contributions));
  const Slice own = layout_.contributions > 0 ? Slice() : layout_.OwnGradients(bucket);
  const absl::Span<const Slice> mine = layout_.contributions > 0 ? contributions : absl::MakeConstSpan(&own, 1);

  const MutexLock issue(&issue_mutex_);
  const int64_t slot = exchanges_ % options_.landing_buckets;
  SHARDSTEP_RETURN_IF_ERROR(CheckOrder(call, slot));
  std::vector<Slice> slices = layout_.Slices(bucket, mine, slot);
  CudaStream* done_on = caller;
  if (!alone() && layout_.bucket(bucket).shard_elements > 0) {
    SHARDSTEP_RETURN_IF_ERROR(Issue({NcclOperation::kExchange, bucket, micro_step}, *caller,
                                    [&](NcclCalls& calls) { layout_.Exchange(bucket, mine, slices, slot, calls); }));
    done_on = wire_.get();
  }
  ++exchanges_;
  const MutexLock lock(&state_mutex_);
  slot_users_[static_cast<size_t>(slot)] = {bucket, micro_step};
  state(bucket).exchanged = micro_step;
  state(bucket).slices = std::move(slices);
  return state(bucket).exchanged_event.RecordOn(*done_on);
}

absl::Status NcclCommunicator::AwaitSlices(int bucket, int64_t micro_step, Stream& stream) {
  const Call call{"AwaitSlices", "micro-step", bucket, micro_step};
  SHARDSTEP_ASSIGN_OR_RETURN(CudaStream* const caller, Check(call, stream));
  const MutexLock lock(&state_mutex_);
  if (state(bucket).exchanged < micro_step) {
    return absl::FailedPreconditionError(absl::StrCat(call.Text(), ": before its Exchange"));
  }
  return state(bucket).exchanged_event.MakeWait(*caller);
}

absl::Span<const Slice> NcclCommunicator::slices(int bucket, int64_t micro_step) {
  const MutexLock lock(&state_mutex_);
  return state(bucket).exchanged == micro_step ? absl::MakeConstSpan(state(bucket).slices) : absl::Span<const Slice>();
}

absl::Status NcclCommunicator::Release(int bucket, int64_t micro_step, Stream& stream) {
  const Call call{"Release", "micro-step", bucket, micro_step};
  SHARDSTEP_ASSIGN_OR_RETURN(CudaStream* const caller, Check(call, stream));
  const MutexLock lock(&state_mutex_);
  if (state(bucket).exchanged < micro_step) {
    return absl::FailedPreconditionError(absl::StrCat(call.Text(), ": before its Exchange"));
  }
  state(bucket).released = micro_step;
  return state(bucket).released_event.RecordOn(*caller);
}

// Others have a copy once the exchange is through; the own slice is the own memory.
absl::Status NcclCommunicator::AwaitReleased(int bucket, int64_t micro_step, Stream& stream) {
  const Call call{"AwaitReleased", "micro-step", bucket, micro_step};
  SHARDSTEP_ASSIGN_OR_RETURN(CudaStream* const caller, Check(call, stream));
  const MutexLock lock(&state_mutex_);
  if (state(bucket).released < micro_step) {
    return absl::FailedPreconditionError(absl::StrCat(call.Text(), ": before its Release"));
  }
  // Once released it was exchanged, and the second wait is none.
  SHARDSTEP_RETURN_IF_ERROR(state(bucket).released_event.MakeWait(*caller));
  return state(bucket).exchanged_event.MakeWait(*caller);
}

absl::Status NcclCommunicator::AllReduceSmall(SmallReduction* reduction, Stream& stream) {
  SHARDSTEP_ASSIGN_OR_RETURN(CudaStream* const caller, CheckStream("AllReduceSmall", stream));
  if (alone()) return absl::OkStatus();
  const MutexLock issue(&issue_mutex_);
  SHARDSTEP_RETURN_IF_ERROR(
      Issue({.kind = NcclOperation::kAllReduceSmall, .number = reductions_}, *caller, [&](NcclCalls& calls) {
        calls.AllReduceSum(reduction->sums.data(), SmallReduction::kSums);
        calls.AllReduceMin(reduction->minima.data(), SmallReduction::kMinima);
      }));
  ++reductions_;
  caller->Wait(wire_->Record());
  return caller->status();
}

absl::Status NcclCommunicator::Publish(int bucket, int64_t step, Stream& stream) {
  const Call call{"Publish", "step", bucket, step};
  SHARDSTEP_ASSIGN_OR_RETURN(CudaStream* const caller, Check(call, stream));
  const MutexLock issue(&issue_mutex_);
  {
    const MutexLock lock(&state_mutex_);
    if (state(bucket).published >= step) {
      return absl::FailedPreconditionError(
          absl::StrCat(call.Text(), ": step ", state(bucket).published, " is already done"));
    }
  }
  CudaStream* done_on = caller;
  if (!alone() && layout_.bucket(bucket).shard_elements > 0) {
    SHARDSTEP_RETURN_IF_ERROR(Issue({NcclOperation::kPublish, bucket, step}, *caller,
                                    [&](NcclCalls& calls) { layout_.Publish(bucket, calls); }));
    done_on = wire_.get();
  }
  const MutexLock lock(&state_mutex_);
  state(bucket).published = step;
  return state(bucket).published_event.RecordOn(*done_on);
}

absl::Status NcclCommunicator::AwaitPublished(int bucket, int64_t step, Stream& stream) {
  const Call call{"AwaitPublished", "step", bucket, step};
  SHARDSTEP_ASSIGN_OR_RETURN(CudaStream* const caller, Check(call, stream));
  const MutexLock lock(&state_mutex_);
  if (state(bucket).published < step) {
    return absl::FailedPreconditionError(absl::StrCat(call.Text(), ": before its Publish"));
  }
  return state(bucket).published_event.MakeWait(*caller);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> CreateNcclCommunicator(NcclApi& nccl, const CudaDeviceRef& device,
                                                                     Memory& memory, Rendezvous& rendezvous,
                                                                     const NcclOptions& options) {
  auto communicator = std::make_unique<NcclCommunicator>(nccl, device, memory, rendezvous, options);
  SHARDSTEP_RETURN_IF_ERROR(communicator->Connect(nccl));
  return communicator;
}

}  // namespace shardstep
