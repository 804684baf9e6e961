#include "shardstep/runtime/sharded_optimizer.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "shardstep/runtime/agreement.h"
#include "shardstep/runtime/host_contributions.h"
#include "shardstep/runtime/job_memory.h"
#include "shardstep/runtime/plan_input.h"
#include "shardstep/runtime/sharded_optimizer_impl.h"

namespace shardstep {
namespace {

absl::StatusOr<ShardLayout> MakeLayout(const OptimizerOptions& options, std::vector<ParameterSpec> parameters,
                                       int world_size, const HostMap& map) {
  SHARDSTEP_RETURN_IF_ERROR(ValidateOptions(options));
  LayoutOptions layout_options{.bucket_bytes = options.bucket_bytes, .world_size = world_size, .groups = {}};
  for (const GroupOptions& group : options.groups) layout_options.groups.push_back(group.kind());
  if (map.host_count() > 0) layout_options.ranks_by_position = map.RanksByPosition();
  SHARDSTEP_ASSIGN_OR_RETURN(ShardLayout layout, ShardLayout::Create(std::move(parameters), layout_options));
  SHARDSTEP_RETURN_IF_ERROR(CheckMicroSteps(layout, options.micro_steps));
  return layout;
}

bool HasDtype(const ShardLayout& layout, int p, DType ParameterSpec::*member, DType dtype) {
  return p >= 0 && p < layout.parameter_count() && layout.parameter(p).*member == dtype;
}

absl::Status CheckLevels(const CommunicatorLevels& levels, int rank, int world_size) {
  const HostMap& map = levels.map;
  const bool two = levels.network != nullptr;
  const int expected_rank = two ? map.local_rank : rank;
  const int expected_size = two ? map.ranks_per_host() : world_size;
  if (levels.host->rank() != expected_rank || levels.host->world_size() != expected_size) {
    return absl::InvalidArgumentError(absl::StrCat(
        "Create: the communicator is rank ", levels.host->rank(), " of ", levels.host->world_size(),
        ", the rendezvous ", two ? "and its hosts say rank " : "rank ", expected_rank, " of ", expected_size));
  }
  if (!two) {
    if (map.host_count() == 0) return absl::OkStatus();
    return absl::InvalidArgumentError("Create: hosts are given, but no communicator between them");
  }
  if (levels.network->rank() != map.host || levels.network->world_size() != map.host_count() ||
      map.host_count() * map.ranks_per_host() != world_size) {
    return absl::InvalidArgumentError(absl::StrCat("Create: the communicator between hosts is rank ",
                                                   levels.network->rank(), " of ", levels.network->world_size(),
                                                   ", on host ", map.host, " of ", map.host_count()));
  }
  if (!levels.network->traits().joins_hosts) {
    return absl::InvalidArgumentError("Create: the communicator between hosts cannot join them");
  }
  return absl::OkStatus();
}

}  // namespace

ShardedOptimizer::ShardedOptimizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ShardedOptimizer::~ShardedOptimizer() = default;

absl::StatusOr<std::unique_ptr<ShardedOptimizer>> ShardedOptimizer::Create(const OptimizerOptions& options,
                                                                           std::vector<ParameterSpec> parameters,
                                                                           CommunicatorLevels communicators,
                                                                           Rendezvous* rendezvous,
                                                                           ComputeDevice* device) {
  if (communicators.host == nullptr || rendezvous == nullptr) {
    return absl::InvalidArgumentError("Create: communicator and rendezvous must not be null");
  }
  const int rank = rendezvous->rank();
  const int world_size = rendezvous->world_size();
  SHARDSTEP_RETURN_IF_ERROR(CheckLevels(communicators, rank, world_size));
  absl::StatusOr<ShardLayout> layout = MakeLayout(options, std::move(parameters), world_size, communicators.map);
  SHARDSTEP_RETURN_IF_ERROR(
      AgreeOnStatus(*rendezvous, "validation of the configuration", layout.status(), kMeetingDeadline));
  SHARDSTEP_RETURN_IF_ERROR(
      AgreeOnConfiguration(DescribeConfiguration(options, *layout), *rendezvous, kMeetingDeadline));
  auto impl = std::make_unique<Impl>(options, *std::move(layout), std::move(communicators), rendezvous, device);
  SHARDSTEP_RETURN_IF_ERROR(impl->Agree("memory", impl->CheckMemory()));
  SHARDSTEP_RETURN_IF_ERROR(impl->Agree("allocation", impl->Allocate()));
  return std::unique_ptr<ShardedOptimizer>(new ShardedOptimizer(std::move(impl)));
}

absl::StatusOr<MemoryEstimate> ShardedOptimizer::EstimateMemory(const OptimizerOptions& options,
                                                                std::vector<ParameterSpec> parameters, int world_size) {
  SHARDSTEP_ASSIGN_OR_RETURN(const ShardLayout layout, MakeLayout(options, std::move(parameters), world_size, {}));
  const ParameterGroups groups(options.groups, &layout);
  const StepPlanInput input = MakePlanInput(options, groups, layout, {}, options.micro_steps);
  return EstimateJobMemory(options, layout, {}, {}, HandleGradients(input, {}));
}

const ShardLayout& ShardedOptimizer::layout() const { return impl_->layout_; }
const ParameterGroups& ShardedOptimizer::groups() const { return impl_->groups_; }
MemoryEstimate ShardedOptimizer::memory() const { return impl_->Memory(); }
std::string ShardedOptimizer::DescribeWire() const {
  const StepPlanInput& input = impl_->scheduler_->plan().input;
  HostMap map = impl_->communicators_.map;
  // One level over a network: every rank is as good as a host.
  const bool over_network = impl_->communicators_.network == nullptr && !impl_->host().traits().slices_persist;
  for (int rank = 0; over_network && rank < world_size(); ++rank) map.hosts.push_back({rank});
  return shardstep::DescribeWire(over_network ? "rank" : "host", map, impl_->layout_, input.active, impl_->options_,
                                 input.micro_steps);
}
int ShardedOptimizer::rank() const { return impl_->rendezvous_->rank(); }
int ShardedOptimizer::world_size() const { return impl_->layout_.world_size(); }

absl::Span<const Bf16> ShardedOptimizer::weights(int p) const {
  if (!HasDtype(layout(), p, &ParameterSpec::weight_dtype, DType::kBf16)) return {};
  return absl::MakeConstSpan(impl_->WeightBuffer(p).as<Bf16>(), layout().elements(p));
}

absl::Span<const float> ShardedOptimizer::fp32_weights(int p) const {
  if (!HasDtype(layout(), p, &ParameterSpec::weight_dtype, DType::kFp32)) return {};
  return absl::MakeConstSpan(impl_->WeightBuffer(p).as<float>(), layout().elements(p));
}

absl::Span<Bf16> ShardedOptimizer::gradient(int p) {
  if (!HasDtype(layout(), p, &ParameterSpec::gradient_dtype, DType::kBf16)) return {};
  return absl::MakeSpan(impl_->GradientBuffer(p).as<Bf16>(), layout().elements(p));
}

absl::Span<float> ShardedOptimizer::fp32_gradient(int p) {
  if (!HasDtype(layout(), p, &ParameterSpec::gradient_dtype, DType::kFp32)) return {};
  return absl::MakeSpan(impl_->GradientBuffer(p).as<float>(), layout().elements(p));
}

absl::Status ShardedOptimizer::BindGradient(int p, BufferView buffer) {
  return impl_->Bind(BoundBuffers::What::kGradient, "BindGradient", p, buffer);
}
absl::Status ShardedOptimizer::BindWeights(int p, BufferView buffer) {
  return impl_->Bind(BoundBuffers::What::kWeights, "BindWeights", p, buffer);
}

absl::Status ShardedOptimizer::Initialize(const FillMaster& fill) { return impl_->Initialize(fill); }

absl::Status ShardedOptimizer::GradientWritable(int p) { return impl_->GradientWritable(p); }
absl::Status ShardedOptimizer::GradientReady(int p) { return impl_->GradientReady(p); }
absl::Status ShardedOptimizer::EndMicroStep() { return impl_->scheduler_->EndMicroStep(); }
absl::Status ShardedOptimizer::SetMicroSteps(int64_t micro_steps) { return impl_->SetMicroSteps(micro_steps); }

absl::Status ShardedOptimizer::SetGroup(int group, const GroupOptions& options) {
  SHARDSTEP_RETURN_IF_ERROR(impl_->scheduler_->CheckNotInFlight("SetGroup"));
  SHARDSTEP_RETURN_IF_ERROR(Annotate(impl_->groups_.SetGroup(group, options), "SetGroup"));
  impl_->scheduler_->SettingsChanged();
  return absl::OkStatus();
}

absl::StatusOr<int> ShardedOptimizer::AddGroup(const GroupOptions& options, absl::Span<const std::string> parameters) {
  int index = -1;
  const auto add = [&](ParameterGroups& groups) -> absl::Status {
    SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<int> members, impl_->FindParameters(parameters));
    SHARDSTEP_ASSIGN_OR_RETURN(index, groups.AddGroup(options));
    for (const int p : members) {
      SHARDSTEP_RETURN_IF_ERROR(groups.Move(p, index));
      groups.SetFrozen(p, false);
    }
    return absl::OkStatus();
  };
  const std::string what = absl::StrCat(absl::StrJoin(parameters, ", "), ": ", DescribeGroup(options));
  SHARDSTEP_RETURN_IF_ERROR(impl_->ChangeGroups("AddGroup", what, add));
  return index;
}

absl::Status ShardedOptimizer::SetFrozen(absl::Span<const std::string> parameters, bool frozen) {
  const auto set = [&](ParameterGroups& groups) -> absl::Status {
    SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<int> members, impl_->FindParameters(parameters));
    for (const int p : members) groups.SetFrozen(p, frozen);
    return absl::OkStatus();
  };
  return impl_->ChangeGroups("SetFrozen", absl::StrCat(absl::StrJoin(parameters, ", "), ": ", frozen), set);
}

absl::Status ShardedOptimizer::Step(const StepArguments& arguments) {
  SHARDSTEP_RETURN_IF_ERROR(impl_->RequireInitialized("Step"));
  return impl_->scheduler_->Step(arguments);
}

absl::Status ShardedOptimizer::WeightsReady(int p) { return impl_->WeightsReady(p); }
absl::StatusOr<StepRecord> ShardedOptimizer::FinishStep() { return impl_->FinishStep(); }

absl::Status ShardedOptimizer::SetWeights(absl::string_view parameter, absl::Span<const Bf16> values) {
  return impl_->SetWeights(parameter, values);
}
absl::Status ShardedOptimizer::SetWeights(absl::string_view parameter, absl::Span<const float> values) {
  return impl_->SetWeights(parameter, values);
}

absl::StatusOr<std::vector<float>> ShardedOptimizer::ReadState(absl::string_view parameter, StateKind kind) {
  return impl_->ReadState(parameter, kind);
}
absl::Status ShardedOptimizer::SetState(absl::string_view parameter, StateKind kind, absl::Span<const float> values) {
  return impl_->SetState(parameter, kind, values);
}

StepCounters ShardedOptimizer::counters() const { return impl_->scheduler_->counters(); }
int64_t ShardedOptimizer::begin_applied_step(int p) const {
  return p < 0 || p >= impl_->layout_.parameter_count() ? 0 : impl_->groups_.begin_applied_step(p);
}
absl::Status ShardedOptimizer::SetCounters(const StepCounters& counters,
                                           absl::Span<const int64_t> begin_applied_steps) {
  return impl_->SetCounters(counters, begin_applied_steps);
}

absl::StatusOr<OptimizerDigests> ShardedOptimizer::Digests() {
  SHARDSTEP_RETURN_IF_ERROR(impl_->scheduler_->Settle("Digests"));
  return impl_->Digests();
}

absl::Status ShardedOptimizer::Agree(absl::string_view what, const absl::Status& mine) {
  absl::Status status = impl_->scheduler_->CheckBetweenSteps(what);
  if (status.ok()) status = mine;
  return impl_->Agree(what, status);
}

absl::Status ShardedOptimizer::Save(const std::string& directory, absl::string_view caller_state) {
  return impl_->Save(directory, caller_state);
}

absl::StatusOr<std::string> ShardedOptimizer::Load(const std::string& directory, std::vector<std::string>* warnings) {
  return impl_->Load(directory, warnings);
}

absl::Status ShardedOptimizer::BeginCapture() {
  SHARDSTEP_RETURN_IF_ERROR(impl_->RequireInitialized("BeginCapture"));
  return impl_->scheduler_->BeginCapture();
}
absl::Status ShardedOptimizer::EndCapture() { return impl_->scheduler_->EndCapture(); }
absl::Status ShardedOptimizer::Replay(const StepArguments& arguments) {
  SHARDSTEP_RETURN_IF_ERROR(impl_->RequireInitialized("Replay"));
  return impl_->scheduler_->Replay(arguments);
}

void ShardedOptimizer::SetTrace(StepTrace* trace) { impl_->scheduler_->SetTrace(trace); }

void ShardedOptimizer::SetAway(absl::Duration duration) { impl_->SetAway(duration); }

void ShardedOptimizer::Abort(const absl::Status& reason) { impl_->Abort(reason); }

}  // namespace shardstep
