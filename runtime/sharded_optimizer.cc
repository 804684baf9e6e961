#include "shardstep/runtime/sharded_optimizer.h"

#include <sched.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shardstep/comm/host_memory.h"
#include "shardstep/comm/host_stream.h"
#include "shardstep/optimizer/shard_kernels.h"
#include "shardstep/optimizer/shard_state.h"
#include "shardstep/runtime/agreement.h"
#include "shardstep/runtime/checkpoint.h"
#include "shardstep/runtime/step_plan.h"
#include "shardstep/runtime/step_scheduler.h"

namespace shardstep {
namespace {

// Of meetings between steps, where a rank may come late from an evaluation or another's save. Waits inside a step have
// the options' own deadline.
constexpr absl::Duration kMeetingDeadline = absl::Minutes(10);

int CoresOfThisProcess() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

absl::Status CheckMicroSteps(const ShardLayout& layout, int64_t micro_steps) {
  constexpr int64_t kMaxExchanges = 1 << 20;
  const int64_t most =
      std::min(kMaxMicroBatches / layout.world_size(), kMaxExchanges / std::max<int64_t>(1, layout.bucket_count()));
  if (micro_steps >= 1 && micro_steps <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("micro_steps = ", micro_steps, ": must be from 1 to ", most, " for ",
                                                 layout.world_size(), " ranks and ", layout.bucket_count(),
                                                 " buckets"));
}

absl::StatusOr<ShardLayout> MakeLayout(const OptimizerOptions& options, std::vector<ParameterSpec> parameters,
                                       int world_size) {
  SHARDSTEP_RETURN_IF_ERROR(ValidateOptions(options));
  for (const ParameterSpec& parameter : parameters) {
    if (parameter.group < 0 || parameter.group >= static_cast<int>(options.groups.size())) {
      return absl::InvalidArgumentError(absl::StrCat("parameter \"", parameter.name, "\": group ", parameter.group,
                                                     " is not one of the ", options.groups.size(), " groups"));
    }
  }
  SHARDSTEP_ASSIGN_OR_RETURN(ShardLayout layout,
                             ShardLayout::Create(std::move(parameters), options.bucket_bytes, world_size));
  SHARDSTEP_RETURN_IF_ERROR(CheckMicroSteps(layout, options.micro_steps));
  return layout;
}

StepPlanInput PlanInput(const OptimizerOptions& options, const ShardLayout& layout, int64_t micro_steps) {
  return {.bucket_count = layout.bucket_count(),
          .world_size = layout.world_size(),
          .micro_steps = micro_steps,
          .look_for_non_finite = options.non_finite != NonFinitePolicy::kIgnore};
}

MemoryEstimate Estimate(const OptimizerOptions& options, const ShardLayout& layout, const CommunicatorTraits& traits) {
  const int64_t shard_bytes = layout.state_elements() * static_cast<int64_t>(sizeof(float));
  const int64_t arena_bytes = layout.arena_elements() * static_cast<int64_t>(sizeof(Bf16));
  const bool accumulator = UsesAccumulator(PlanInput(options, layout, options.micro_steps), traits);
  return {.weights_shared_bytes = arena_bytes,
          .gradient_bytes = arena_bytes,
          .master_bytes = shard_bytes,
          .state_bytes = 2 * shard_bytes,
          .accumulator_bytes = accumulator ? shard_bytes : 0};
}

std::vector<BucketExtent> Extents(const ShardLayout& layout) {
  std::vector<BucketExtent> extents;
  for (int b = 0; b < layout.bucket_count(); ++b) {
    extents.push_back({.begin_element = layout.bucket_begin_element(b), .shard_elements = layout.shard_elements(b)});
  }
  return extents;
}

}  // namespace

// Owns the parts and joins them; the step itself is in StepScheduler, the model as a whole in ModelAccess.
class ShardedOptimizer::Impl {
 public:
  Impl(const OptimizerOptions& options, ShardLayout layout, std::unique_ptr<Communicator> communicator,
       Rendezvous* rendezvous)
      : options_(options),
        layout_(std::move(layout)),
        communicator_(std::move(communicator)),
        rendezvous_(rendezvous),
        model_(&layout_, &state_, communicator_.get(), rendezvous, kMeetingDeadline) {}

  ~Impl() {
    // Work in flight may wait for ranks that will never come; end it before its memory goes.
    if (scheduler_ != nullptr && !(scheduler_->idle() && scheduler_->Settle("destruction").ok())) {
      communicator_->Abort(absl::CancelledError("the optimizer was destroyed inside a step"));
    }
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  // All ranks allocate at the same time, so what they need together must be there.
  absl::Status CheckMemory() const {
    const MemoryEstimate estimate = Estimate(options_, layout_, communicator_->traits());
    return CheckMemoryAvailable(layout_.world_size() * estimate.rank_bytes() + estimate.weights_shared_bytes,
                                absl::StrCat("the optimizer of ", layout_.world_size(), " ranks"));
  }

  absl::Status Allocate() {
    SHARDSTEP_RETURN_IF_ERROR(communicator_->Allocate(Extents(layout_)));
    const bool accumulator = Estimate(options_, layout_, communicator_->traits()).accumulator_bytes > 0;
    SHARDSTEP_ASSIGN_OR_RETURN(state_, ShardState::Create(layout_, accumulator));
    const int threads = options_.update_threads > 0 ? options_.update_threads
                                                    : std::max(1, CoresOfThisProcess() / layout_.world_size());
    SHARDSTEP_ASSIGN_OR_RETURN(kernels_, CreateCpuShardKernels(threads));
    scheduler_ = std::make_unique<StepScheduler>(StepResources{.options = &options_,
                                                               .layout = &layout_,
                                                               .state = &state_,
                                                               .communicator = communicator_.get(),
                                                               .kernels = kernels_.get(),
                                                               .caller = &caller_,
                                                               .exchange = &caller_,
                                                               .update = &update_});
    return absl::OkStatus();
  }

  absl::Status Agree(absl::string_view what, const absl::Status& mine) {
    return AgreeOnStatus(*rendezvous_, what, mine, kMeetingDeadline);
  }

  absl::Status RequireInitialized(absl::string_view call) const {
    if (initialized_) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(call, ": call Initialize or Load first"));
  }

  absl::Status Initialize(const FillMaster& fill) {
    SHARDSTEP_RETURN_IF_ERROR(scheduler_->Settle("Initialize"));
    model_.Fill(fill);
    model_.ZeroMoments();
    scheduler_->RestoreCounters({});
    SHARDSTEP_RETURN_IF_ERROR(model_.WriteWeights());
    initialized_ = true;
    return absl::OkStatus();
  }

  absl::StatusOr<int> FindParameter(absl::string_view call, absl::string_view name) const {
    const int p = layout_.FindParameter(name);
    if (p >= 0) return p;
    return absl::NotFoundError(absl::StrCat(call, ": no parameter \"", name, "\""));
  }

  absl::Status SetMicroSteps(int64_t micro_steps) {
    SHARDSTEP_RETURN_IF_ERROR(Agree("SetMicroSteps", PrepareMicroSteps(micro_steps)));
    SHARDSTEP_RETURN_IF_ERROR(AgreeOnValue(*rendezvous_, "SetMicroSteps", absl::StrCat(micro_steps), kMeetingDeadline));
    return scheduler_->SetMicroSteps(micro_steps);
  }

  absl::Status PrepareMicroSteps(int64_t micro_steps) {
    SHARDSTEP_RETURN_IF_ERROR(scheduler_->CheckBetweenSteps("SetMicroSteps"));
    SHARDSTEP_RETURN_IF_ERROR(CheckMicroSteps(layout_, micro_steps));
    if (!UsesAccumulator(PlanInput(options_, layout_, micro_steps), communicator_->traits())) return absl::OkStatus();
    return state_.EnsureAccumulator(layout_);
  }

  absl::Status SetWeights(absl::string_view parameter, absl::Span<const Bf16> values) {
    SHARDSTEP_RETURN_IF_ERROR(RequireInitialized("SetWeights"));
    SHARDSTEP_RETURN_IF_ERROR(scheduler_->Settle("SetWeights"));
    const absl::StatusOr<int> p = FindParameter("SetWeights", parameter);
    absl::Status status = p.status();
    if (p.ok() && static_cast<int64_t>(values.size()) != layout_.elements(*p)) {
      status = absl::InvalidArgumentError(
          absl::StrCat("SetWeights: \"", parameter, "\" has ", layout_.elements(*p), " elements, not ", values.size()));
    }
    SHARDSTEP_RETURN_IF_ERROR(Agree("SetWeights", status));
    return model_.SetParameter(*p, values);
  }

  std::vector<CheckpointArray> Arrays() const {
    return {{"master", state_.master()},
            {"first_moment", state_.first_moment()},
            {"second_moment", state_.second_moment()}};
  }

  absl::Status Save(const std::string& directory, absl::string_view caller_state) {
    if (scheduler_->torn()) return absl::FailedPreconditionError("Save: the optimizer is torn");
    SHARDSTEP_RETURN_IF_ERROR(RequireInitialized("Save"));
    SHARDSTEP_RETURN_IF_ERROR(scheduler_->Settle("Save"));
    const CheckpointPolicy policy{.keep = options_.keep_checkpoints};
    communicator_->SetAway(policy.deadline);
    const absl::Status status = WriteCheckpoint(directory, caller_state, policy);
    communicator_->SetAway(absl::ZeroDuration());
    return status;
  }

  absl::StatusOr<std::string> Load(const std::string& directory, std::vector<std::string>* warnings) {
    SHARDSTEP_RETURN_IF_ERROR(scheduler_->Settle("Load"));
    const CheckpointPolicy policy{.keep = options_.keep_checkpoints};
    initialized_ = false;
    SHARDSTEP_ASSIGN_OR_RETURN(CheckpointInfo info,
                               LoadCheckpoint(directory, layout_, Arrays(), *rendezvous_, policy, warnings));
    scheduler_->RestoreCounters({.step = info.step,
                                 .applied_steps = info.applied_steps,
                                 .skipped_steps = info.skipped_steps,
                                 .consecutive_skips = info.consecutive_skips});
    SHARDSTEP_RETURN_IF_ERROR(model_.WriteWeights());
    initialized_ = true;
    return std::move(info.caller_state);
  }

  absl::Status WriteCheckpoint(const std::string& directory, absl::string_view caller_state,
                               const CheckpointPolicy& policy) {
    SHARDSTEP_ASSIGN_OR_RETURN(const OptimizerDigests digests, model_.Digests());
    const StepCounters& counters = scheduler_->counters();
    const CheckpointInfo info{.step = counters.step,
                              .applied_steps = counters.applied_steps,
                              .skipped_steps = counters.skipped_steps,
                              .consecutive_skips = counters.consecutive_skips,
                              .options = DescribeOptions(options_),
                              .caller_state = std::string(caller_state),
                              .digests = {digests.master, digests.first_moment, digests.second_moment}};
    return SaveCheckpoint(directory, layout_, Arrays(), info, *rendezvous_, policy);
  }

  const OptimizerOptions options_;
  const ShardLayout layout_;
  // Streams go before what their work uses goes: they are declared last and destroyed first.
  const std::unique_ptr<Communicator> communicator_;
  Rendezvous* const rendezvous_;
  ShardState state_;
  std::unique_ptr<ShardKernels> kernels_;
  ModelAccess model_;
  std::unique_ptr<StepScheduler> scheduler_;
  bool initialized_ = false;
  InlineStream caller_;
  ThreadStream update_;
};

ShardedOptimizer::ShardedOptimizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ShardedOptimizer::~ShardedOptimizer() = default;

absl::StatusOr<std::unique_ptr<ShardedOptimizer>> ShardedOptimizer::Create(const OptimizerOptions& options,
                                                                           std::vector<ParameterSpec> parameters,
                                                                           std::unique_ptr<Communicator> communicator,
                                                                           Rendezvous* rendezvous) {
  if (communicator == nullptr || rendezvous == nullptr) {
    return absl::InvalidArgumentError("Create: communicator and rendezvous must not be null");
  }
  const int world_size = communicator->world_size();
  if (world_size != rendezvous->world_size() || communicator->rank() != rendezvous->rank()) {
    return absl::InvalidArgumentError(absl::StrCat("Create: the communicator is rank ", communicator->rank(), " of ",
                                                   world_size, ", the rendezvous rank ", rendezvous->rank(), " of ",
                                                   rendezvous->world_size()));
  }
  absl::StatusOr<ShardLayout> layout = MakeLayout(options, std::move(parameters), world_size);
  SHARDSTEP_RETURN_IF_ERROR(
      AgreeOnStatus(*rendezvous, "validation of the configuration", layout.status(), kMeetingDeadline));
  SHARDSTEP_RETURN_IF_ERROR(
      AgreeOnConfiguration(DescribeConfiguration(options, *layout), *rendezvous, kMeetingDeadline));
  auto impl = std::make_unique<Impl>(options, *std::move(layout), std::move(communicator), rendezvous);
  SHARDSTEP_RETURN_IF_ERROR(impl->Agree("memory", impl->CheckMemory()));
  SHARDSTEP_RETURN_IF_ERROR(impl->Agree("allocation", impl->Allocate()));
  return std::unique_ptr<ShardedOptimizer>(new ShardedOptimizer(std::move(impl)));
}

absl::StatusOr<MemoryEstimate> ShardedOptimizer::EstimateMemory(const OptimizerOptions& options,
                                                                std::vector<ParameterSpec> parameters, int world_size) {
  SHARDSTEP_ASSIGN_OR_RETURN(const ShardLayout layout, MakeLayout(options, std::move(parameters), world_size));
  return Estimate(options, layout, CommunicatorTraits());
}

const ShardLayout& ShardedOptimizer::layout() const { return impl_->layout_; }
int ShardedOptimizer::rank() const { return impl_->communicator_->rank(); }
int ShardedOptimizer::world_size() const { return impl_->communicator_->world_size(); }

absl::Span<const Bf16> ShardedOptimizer::weights(int p) const {
  if (p < 0 || p >= layout().parameter_count()) return {};
  const Bf16* arena = impl_->communicator_->weights().as<Bf16>();
  return absl::MakeConstSpan(arena + layout().arena_begin_element(p), layout().elements(p));
}

absl::Span<Bf16> ShardedOptimizer::gradient(int p) {
  if (p < 0 || p >= layout().parameter_count()) return {};
  Bf16* arena = impl_->communicator_->gradients().as<Bf16>();
  return absl::MakeSpan(arena + layout().arena_begin_element(p), layout().elements(p));
}

absl::Status ShardedOptimizer::Initialize(const FillMaster& fill) { return impl_->Initialize(fill); }

absl::Status ShardedOptimizer::GradientWritable(int p) { return impl_->scheduler_->GradientWritable(p); }
absl::Status ShardedOptimizer::GradientReady(int p) { return impl_->scheduler_->GradientReady(p); }
absl::Status ShardedOptimizer::EndMicroStep() { return impl_->scheduler_->EndMicroStep(); }
absl::Status ShardedOptimizer::SetMicroSteps(int64_t micro_steps) { return impl_->SetMicroSteps(micro_steps); }

absl::Status ShardedOptimizer::Step(const StepArguments& arguments) {
  SHARDSTEP_RETURN_IF_ERROR(impl_->RequireInitialized("Step"));
  return impl_->scheduler_->Step(arguments);
}

absl::Status ShardedOptimizer::WeightsReady(int p) { return impl_->scheduler_->WeightsReady(p); }
absl::StatusOr<StepRecord> ShardedOptimizer::FinishStep() { return impl_->scheduler_->FinishStep(); }

absl::Status ShardedOptimizer::SetWeights(absl::string_view parameter, absl::Span<const Bf16> values) {
  return impl_->SetWeights(parameter, values);
}

absl::StatusOr<std::vector<float>> ShardedOptimizer::ReadMaster(absl::string_view parameter) {
  SHARDSTEP_RETURN_IF_ERROR(impl_->RequireInitialized("ReadMaster"));
  SHARDSTEP_RETURN_IF_ERROR(impl_->scheduler_->Settle("ReadMaster"));
  SHARDSTEP_ASSIGN_OR_RETURN(const int p, impl_->FindParameter("ReadMaster", parameter));
  return impl_->model_.ReadMaster(p);
}

absl::StatusOr<OptimizerDigests> ShardedOptimizer::Digests() {
  SHARDSTEP_RETURN_IF_ERROR(impl_->scheduler_->Settle("Digests"));
  return impl_->model_.Digests();
}

absl::Status ShardedOptimizer::Save(const std::string& directory, absl::string_view caller_state) {
  return impl_->Save(directory, caller_state);
}

absl::StatusOr<std::string> ShardedOptimizer::Load(const std::string& directory, std::vector<std::string>* warnings) {
  return impl_->Load(directory, warnings);
}

int64_t ShardedOptimizer::step() const { return impl_->scheduler_->counters().step; }
int64_t ShardedOptimizer::applied_steps() const { return impl_->scheduler_->counters().applied_steps; }

void ShardedOptimizer::SetAway(absl::Duration duration) { impl_->communicator_->SetAway(duration); }

void ShardedOptimizer::Abort(const absl::Status& reason) { impl_->communicator_->Abort(reason); }

}  // namespace shardstep
