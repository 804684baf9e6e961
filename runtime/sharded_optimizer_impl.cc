#include "shardstep/runtime/sharded_optimizer_impl.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shardstep/optimizer/worker_pool.h"
#include "shardstep/runtime/agreement.h"
#include "shardstep/runtime/bucket_extents.h"
#include "shardstep/runtime/host_contributions.h"
#include "shardstep/runtime/job_memory.h"
#include "shardstep/runtime/parameter_norms.h"
#include "shardstep/runtime/plan_input.h"

namespace shardstep {

absl::Status CheckMicroSteps(const ShardLayout& layout, int64_t micro_steps) {
  constexpr int64_t kMaxExchanges = 1 << 20;
  const int64_t most =
      std::min(kMaxMicroBatches / layout.world_size(), kMaxExchanges / std::max<int64_t>(1, layout.bucket_count()));
  if (micro_steps >= 1 && micro_steps <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("micro_steps = ", micro_steps, ": must be from 1 to ", most, " for ",
                                                 layout.world_size(), " ranks and ", layout.bucket_count(),
                                                 " buckets"));
}

ShardedOptimizer::Impl::Impl(const OptimizerOptions& options, ShardLayout layout, CommunicatorLevels communicators,
                             Rendezvous* rendezvous, ComputeDevice* device)
    : options_(options),
      layout_(std::move(layout)),
      groups_(options.groups, &layout_),
      host_device_(device == nullptr ? CreateHostDevice() : nullptr),
      device_(device == nullptr ? *host_device_ : *device),
      communicators_(std::move(communicators)),
      rendezvous_(rendezvous),
      state_access_(&layout_, &state_, &Outer(), &device_.memory()),
      model_(&layout_, &groups_, &state_access_, &host(), rendezvous, kMeetingDeadline) {}

ShardedOptimizer::Impl::~Impl() {
  // Work in flight may wait for ranks that will never come; end it before its memory goes.
  if (scheduler_ != nullptr && !(scheduler_->idle() && scheduler_->Settle("destruction").ok())) {
    Abort(absl::CancelledError("the optimizer was destroyed inside a step"));
    scheduler_->Drain();
  }
  if (others_ != nullptr) others_->Leave();
}

// ---- Creation ----------------------------------------------------------------------------------------------------

GradientHandling ShardedOptimizer::Impl::Handling(int64_t micro_steps) const {
  return HandleGradients(MakePlanInput(options_, groups_, layout_, communicators_.map, micro_steps), traits());
}

MemoryEstimate ShardedOptimizer::Impl::MemoryToAllocate() const {
  const HostMap& map = communicators_.map;
  const GradientHandling handling = Handling(options_.micro_steps);
  MemoryEstimate estimate = EstimateJobMemory(options_, layout_, map, traits(), handling);
  const std::vector<BucketExtent> extents = HostExtents(layout_, map, handling.local_sums);
  estimate.transit_bytes += host().LandingBytes(HostRequest(extents));
  if (communicators_.network == nullptr) return estimate;
  const std::vector<BucketExtent> between_hosts = NetworkExtents(layout_, map);
  estimate.transit_bytes += communicators_.network->LandingBytes(NetworkRequest(between_hosts));
  return estimate;
}

ArenaRequest ShardedOptimizer::Impl::HostRequest(absl::Span<const BucketExtent> extents) const {
  return {.buckets = extents, .private_weights = options_.weights == WeightCopies::kPrivate};
}

ArenaRequest ShardedOptimizer::Impl::NetworkRequest(absl::Span<const BucketExtent> extents) const {
  return {.buckets = extents, .contributions = PlanContributions(communicators_.map, options_).count()};
}

MemoryEstimate ShardedOptimizer::Impl::Memory() const {
  MemoryEstimate estimate = MemoryToAllocate();
  shardstep::SetState(state_.bytes(layout_), &estimate);
  const bool local_sums = own_gradients_.view().data != nullptr;
  for (int b = 0; b < layout_.bucket_count(); ++b) {
    if (thawed_[b] && !traits().host.memory_at_once) AddGradients(layout_, b, local_sums, &estimate);
  }
  return estimate;
}

int ShardedOptimizer::Impl::HostRanks() const {
  return communicators_.host_ranks > 0 ? communicators_.host_ranks : layout_.world_size();
}

// All ranks that share memory allocate at the same time, so what they need together must be there.
absl::Status ShardedOptimizer::Impl::CheckMemory() const {
  const MemoryEstimate estimate = MemoryToAllocate();
  const int ranks = device_.shares_memory() ? HostRanks() : 1;
  return device_.memory().CheckAvailable(ranks * estimate.rank_bytes() + estimate.weights_shared_bytes,
                                         absl::StrCat("the optimizer of ", ranks, " ranks"));
}

absl::Status ShardedOptimizer::Impl::CreateStreams() {
  SHARDSTEP_ASSIGN_OR_RETURN(caller_, device_.CallerStream());
  SHARDSTEP_ASSIGN_OR_RETURN(exchange_, device_.CreateStream("exchange"));
  SHARDSTEP_ASSIGN_OR_RETURN(update_, device_.CreateStream("update"));
  return absl::OkStatus();
}

absl::Status ShardedOptimizer::Impl::Allocate() {
  const GradientHandling handling = Handling(options_.micro_steps);
  SHARDSTEP_RETURN_IF_ERROR(AllocateArenas(handling.local_sums));
  SHARDSTEP_RETURN_IF_ERROR(CreateStreams());
  SHARDSTEP_ASSIGN_OR_RETURN(
      words_, StepMemory::Create(device_.memory(), options_.parameter_norms ? layout_.parameter_count() : 0));
  SHARDSTEP_ASSIGN_OR_RETURN(state_, ShardState::Create(layout_, SumsOf(handling), device_.memory()));
  thawed_.assign(layout_.bucket_count(), false);
  SHARDSTEP_ASSIGN_OR_RETURN(kernels_, device_.CreateKernels(KernelThreads(options_.update_threads, HostRanks())));
  gradients_ = handling.local_sums ? own_gradients_.view() : host().gradients();
  bound_ = std::make_unique<BoundBuffers>(&layout_, &device_.memory(),
                                          std::vector<BufferView>{gradients_, host().weights()});
  scheduler_ = std::make_unique<StepScheduler>(StepResources{.options = &options_,
                                                             .groups = &groups_,
                                                             .layout = &layout_,
                                                             .state = &state_,
                                                             .rank = rendezvous_->rank(),
                                                             .host = &host(),
                                                             .network = communicators_.network.get(),
                                                             .map = &communicators_.map,
                                                             .kernels = kernels_.get(),
                                                             .device = &device_,
                                                             .words = &words_,
                                                             .caller = caller_.get(),
                                                             .exchange = exchange_.get(),
                                                             .update = update_.get(),
                                                             .gradients = gradients_,
                                                             .host_sums = host_sums_.view()});
  return scheduler_->TakeOverGroups();
}

// The levels' arenas: gradients among the ranks of a host, weights once for both.
absl::Status ShardedOptimizer::Impl::AllocateArenas(bool local_sums) {
  const HostMap& map = communicators_.map;
  const std::vector<BucketExtent> extents = HostExtents(layout_, map, local_sums);
  SHARDSTEP_RETURN_IF_ERROR(host().Allocate(HostRequest(extents)));
  if (communicators_.network != nullptr) {
    const HostContributions plan = PlanContributions(map, options_);
    const std::vector<BucketExtent> between_hosts = NetworkExtents(layout_, map);
    ArenaRequest request = NetworkRequest(between_hosts);
    request.weights = host().weights();
    SHARDSTEP_RETURN_IF_ERROR(communicators_.network->Allocate(request));
    const int ring = communicators_.network->traits().landing_buckets;
    SHARDSTEP_ASSIGN_OR_RETURN(host_sums_, device_.memory().Allocate(HostSumBytes(layout_, map, plan, ring),
                                                                     "sums of a host", PageBacking::kOnCreation));
  }
  // After all that ranks do together: a rank may fail alone in this.
  if (local_sums) {
    SHARDSTEP_ASSIGN_OR_RETURN(own_gradients_, device_.memory().Allocate(layout_.gradient_arena_bytes(), "gradients",
                                                                         PageBacking::kOnCreation));
  }
  return absl::OkStatus();
}

// ---- Agreement ---------------------------------------------------------------------------------------------------

absl::Status ShardedOptimizer::Impl::Agree(absl::string_view what, const absl::Status& mine) {
  return AgreeOnStatus(*rendezvous_, what, mine, kMeetingDeadline);
}

absl::Status ShardedOptimizer::Impl::RequireInitialized(absl::string_view call) const {
  if (initialized_) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(call, ": call Initialize or Load first"));
}

absl::StatusOr<int> ShardedOptimizer::Impl::FindParameter(absl::string_view name) const {
  const int p = layout_.FindParameter(name);
  if (p >= 0) return p;
  return absl::NotFoundError(absl::StrCat("no parameter \"", name, "\""));
}

absl::StatusOr<std::vector<int>> ShardedOptimizer::Impl::FindParameters(absl::Span<const std::string> names) const {
  std::vector<int> parameters;
  for (const std::string& name : names) {
    SHARDSTEP_ASSIGN_OR_RETURN(const int p, FindParameter(name));
    parameters.push_back(p);
  }
  return parameters;
}

// ---- Changes between steps ---------------------------------------------------------------------------------------

absl::Status ShardedOptimizer::Impl::SetMicroSteps(int64_t micro_steps) {
  SHARDSTEP_RETURN_IF_ERROR(Agree("SetMicroSteps", PrepareMicroSteps(micro_steps)));
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnValue(*rendezvous_, "SetMicroSteps", absl::StrCat(micro_steps), kMeetingDeadline));
  return scheduler_->Replan(micro_steps);
}

absl::Status ShardedOptimizer::Impl::PrepareMicroSteps(int64_t micro_steps) {
  SHARDSTEP_RETURN_IF_ERROR(scheduler_->CheckBetweenSteps("SetMicroSteps"));
  SHARDSTEP_RETURN_IF_ERROR(CheckMicroSteps(layout_, micro_steps));
  return state_.EnsureSums(layout_, SumsOf(Handling(micro_steps)));
}

// `change` works on a copy of the groups, which takes their place once all ranks succeeded and agree.
absl::Status ShardedOptimizer::Impl::ChangeGroups(absl::string_view call, const std::string& what,
                                                  absl::FunctionRef<absl::Status(ParameterGroups&)> change) {
  absl::Status status = scheduler_->Settle(call);
  if (status.ok()) status = scheduler_->CheckBetweenSteps(call);
  ParameterGroups changed = groups_;
  if (status.ok()) status = Annotate(change(changed), call);
  SHARDSTEP_RETURN_IF_ERROR(Agree(call, status));
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnValue(*rendezvous_, call, what, kMeetingDeadline));
  const absl::Status made = Agree(call, MakeStateFor(changed));
  if (!made.ok()) {
    DropUnusedState();
    return made;
  }
  std::vector<int> thawed, frozen;
  for (int p = 0; p < layout_.parameter_count(); ++p) {
    if (changed.frozen(p) == groups_.frozen(p) || layout_.owner(p) != p) continue;
    (changed.frozen(p) ? frozen : thawed).push_back(p);
  }
  for (const int p : thawed) changed.SetBeginAppliedStep(p, scheduler_->counters().applied_steps);
  groups_ = std::move(changed);
  // All leave together: a master is written with the weights that others will read.
  return Agree(call, TakeOver(frozen, thawed));
}

// State for buckets of which something is no longer frozen.
absl::Status ShardedOptimizer::Impl::MakeStateFor(const ParameterGroups& changed) {
  for (int b = 0; b < layout_.bucket_count(); ++b) {
    if (!changed.active(b) || groups_.active(b)) continue;
    std::vector<float> master(layout_.shard_elements(b));
    state_access_.Read(StateKind::kMaster, b, 0, absl::MakeSpan(master));
    SHARDSTEP_RETURN_IF_ERROR(state_.Thaw(layout_, b));
    thawed_[b] = thawed_[b] || layout_.kind(b).frozen;
    state_access_.Write(StateKind::kMaster, b, 0, master);
  }
  return state_access_.status();
}

absl::Status ShardedOptimizer::Impl::TakeOver(const std::vector<int>& frozen, const std::vector<int>& thawed) {
  // As if its bucket had gone, so that no bits depend on which parameters share one.
  for (const int p : frozen) model_.MasterFromWeights(p);
  for (const int p : frozen) model_.ZeroMoments(p);
  for (const int p : thawed) model_.ZeroMoments(p);
  DropUnusedState();
  SHARDSTEP_RETURN_IF_ERROR(state_access_.status());
  return scheduler_->TakeOverGroups();
}

void ShardedOptimizer::Impl::DropUnusedState() {
  for (int b = 0; b < layout_.bucket_count(); ++b) {
    if (!groups_.active(b)) state_.Freeze(b);
  }
}

// ---- Several optimizers ------------------------------------------------------------------------------------------

absl::Status ShardedOptimizer::Impl::DecideWith(std::unique_ptr<OtherOptimizers> others) {
  SHARDSTEP_RETURN_IF_ERROR(scheduler_->DecideWith(others.get()));
  others_ = std::move(others);
  return absl::OkStatus();
}

absl::Status ShardedOptimizer::Impl::WorkStatus() const {
  const absl::Status status = update_->status();
  return status.ok() ? exchange_->status() : status;
}

// ---- The caller's own buffers ------------------------------------------------------------------------------------

BufferView ShardedOptimizer::Impl::GradientBuffer(int p) const {
  const int64_t size_bytes = layout_.elements(p) * SizeBytes(layout_.parameter(p).gradient_dtype);
  return {gradients_.data + layout_.gradient_begin_byte(p), size_bytes};
}

BufferView ShardedOptimizer::Impl::WeightBuffer(int p) const {
  const int64_t size_bytes = layout_.elements(p) * SizeBytes(layout_.parameter(p).weight_dtype);
  return {host().weights().data + layout_.weight_begin_byte(p), size_bytes};
}

absl::Status ShardedOptimizer::Impl::Bind(BoundBuffers::What what, absl::string_view call, int p, BufferView buffer) {
  SHARDSTEP_RETURN_IF_ERROR(scheduler_->CheckBetweenSteps(call));
  return Annotate(bound_->Bind(what, p, buffer), call);
}

absl::Status ShardedOptimizer::Impl::GradientWritable(int p) {
  const bool known = p >= 0 && p < layout_.parameter_count();
  const bool was_writable = known && scheduler_->IsWritable(p);
  SHARDSTEP_RETURN_IF_ERROR(scheduler_->GradientWritable(p));
  const BufferView bound = bound_->bound(BoundBuffers::What::kGradient, p);
  if (bound.data == nullptr || was_writable || !options_.accumulate_gradients) return absl::OkStatus();
  return kernels_->Zero({bound}, *caller_);
}

absl::Status ShardedOptimizer::Impl::GradientReady(int p) {
  if (p >= 0 && p < layout_.parameter_count()) {
    const BufferView bound = bound_->bound(BoundBuffers::What::kGradient, p);
    if (bound.data != nullptr && scheduler_->IsWritable(p)) {
      SHARDSTEP_RETURN_IF_ERROR(
          kernels_->Copy({.from = bound.data, .to = GradientBuffer(p).data, .size_bytes = bound.size_bytes}, *caller_));
    }
  }
  return scheduler_->GradientReady(p);
}

absl::Status ShardedOptimizer::Impl::WeightsReady(int p) {
  SHARDSTEP_RETURN_IF_ERROR(scheduler_->WeightsReady(p));
  const BufferView bound = bound_->bound(BoundBuffers::What::kWeights, p);
  if (bound.data == nullptr) return absl::OkStatus();
  return kernels_->Copy({.from = WeightBuffer(p).data, .to = bound.data, .size_bytes = bound.size_bytes}, *caller_);
}

absl::StatusOr<StepRecord> ShardedOptimizer::Impl::FinishStep() {
  SHARDSTEP_ASSIGN_OR_RETURN(StepRecord record, scheduler_->FinishStep());
  record.inexact_modes = InexactModes(options_);
  for (const Communicator* level : {communicators_.host.get(), communicators_.network.get()}) {
    if (level != nullptr && level->traits().inexact_mode != nullptr) {
      record.inexact_modes.push_back(level->traits().inexact_mode);
    }
  }
  record.copied_buffers = bound_->Copied();
  if (options_.parameter_norms && record.gradient_norm) {
    SHARDSTEP_ASSIGN_OR_RETURN(
        record.parameter_norms,
        GatherParameterNorms(words_.parameter_norms(), scheduler_->divisor(), *rendezvous_, kMeetingDeadline));
  }
  return record;
}

void ShardedOptimizer::Impl::SetAway(absl::Duration duration) {
  host().SetAway(duration);
  if (communicators_.network != nullptr) communicators_.network->SetAway(duration);
  if (others_ != nullptr) others_->SetAway(duration);
}

void ShardedOptimizer::Impl::Abort(const absl::Status& reason) {
  AbortAlone(reason);
  if (others_ != nullptr) others_->Abort(reason);
}

void ShardedOptimizer::Impl::AbortAlone(const absl::Status& reason) {
  host().Abort(reason);
  if (communicators_.network != nullptr) communicators_.network->Abort(reason);
}

}  // namespace shardstep
