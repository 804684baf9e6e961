#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "shardstep/optimizer/digest.h"
#include "shardstep/runtime/agreement.h"
#include "shardstep/runtime/sharded_optimizer_impl.h"

// The parts of the optimizer that fill, set, read, save and load the model as a whole.

namespace shardstep {
namespace {

std::vector<int> AllBuckets(const ShardLayout& layout) {
  std::vector<int> buckets(layout.bucket_count());
  std::iota(buckets.begin(), buckets.end(), 0);
  return buckets;
}

float AsFloat(float value) { return value; }
float AsFloat(Bf16 value) { return ToFloat(value); }

// As a checkpoint's name has room for.
constexpr int64_t kMostSteps = 1'000'000'000'000;

absl::Status CheckCounters(const StepCounters& counters, absl::Span<const int64_t> begin_applied_steps,
                           const ShardLayout& layout) {
  const auto wrong = [](absl::string_view field, int64_t value, absl::string_view rule) {
    return absl::InvalidArgumentError(absl::StrCat("SetCounters: ", field, " = ", value, ": must be ", rule));
  };
  if (counters.step < 0 || counters.step >= kMostSteps) {
    return wrong("step", counters.step, absl::StrCat("from 0 to ", kMostSteps - 1));
  }
  if (counters.applied_steps < 0 || counters.skipped_steps < 0 ||
      counters.applied_steps > counters.step - counters.skipped_steps) {
    return wrong("applied_steps", counters.applied_steps, "at least 0, with skipped_steps at most step");
  }
  if (counters.consecutive_skips < 0 || counters.consecutive_skips > counters.skipped_steps) {
    return wrong("consecutive_skips", counters.consecutive_skips, "from 0 to skipped_steps");
  }
  if (begin_applied_steps.empty()) return absl::OkStatus();
  if (begin_applied_steps.size() != static_cast<size_t>(layout.parameter_count())) {
    return wrong("number of begin_applied_steps", static_cast<int64_t>(begin_applied_steps.size()),
                 absl::StrCat("that of parameters, ", layout.parameter_count()));
  }
  for (const int64_t begin : begin_applied_steps) {
    if (begin < 0 || begin > counters.applied_steps) {
      return wrong("begin_applied_step", begin, "from 0 to applied_steps");
    }
  }
  return absl::OkStatus();
}

}  // namespace

// ---- The model as a whole ----------------------------------------------------------------------------------------

absl::Status ShardedOptimizer::Impl::Initialize(const FillMaster& fill) {
  SHARDSTEP_RETURN_IF_ERROR(scheduler_->Settle("Initialize"));
  // Nobody may still be reading the old weights.
  SHARDSTEP_RETURN_IF_ERROR(Agree("Initialize", absl::OkStatus()));
  model_.Fill(fill);
  for (int p = 0; p < layout_.parameter_count(); ++p) model_.ZeroMoments(p);
  for (int p = 0; p < layout_.parameter_count(); ++p) groups_.SetBeginAppliedStep(p, 0);
  scheduler_->RestoreCounters({});
  return FinishModel("Initialize");
}

// After a meeting, as ranks take different times to fill or load their shards.
absl::Status ShardedOptimizer::Impl::FinishModel(absl::string_view call) {
  SHARDSTEP_RETURN_IF_ERROR(Agree(call, state_access_.status()));
  for (int p = 0; p < layout_.parameter_count(); ++p) {
    if (groups_.frozen(p) && layout_.owner(p) == p) model_.MasterFromWeights(p);
  }
  SHARDSTEP_RETURN_IF_ERROR(scheduler_->TakeOverGroups());
  // All leave together: who aborts next ends nobody's share of this.
  SHARDSTEP_RETURN_IF_ERROR(Agree(call, scheduler_->ShareWeights(AllBuckets(layout_))));
  initialized_ = true;
  return absl::OkStatus();
}

template <typename T>
absl::Status ShardedOptimizer::Impl::SetTypedWeights(absl::string_view parameter, absl::Span<const T> values,
                                                     DType dtype) {
  SHARDSTEP_RETURN_IF_ERROR(RequireInitialized("SetWeights"));
  SHARDSTEP_RETURN_IF_ERROR(scheduler_->Settle("SetWeights"));
  const absl::StatusOr<int> p = FindParameter(parameter);
  absl::Status status = Annotate(p.status(), "SetWeights");
  if (p.ok() && layout_.parameter(*p).weight_dtype != dtype) {
    status = absl::InvalidArgumentError(
        absl::StrCat("SetWeights: the weights of \"", parameter, "\" are not ", Name(dtype)));
  } else if (p.ok() && static_cast<int64_t>(values.size()) != layout_.elements(*p)) {
    status = absl::InvalidArgumentError(
        absl::StrCat("SetWeights: \"", parameter, "\" has ", layout_.elements(*p), " elements, not ", values.size()));
  }
  SHARDSTEP_RETURN_IF_ERROR(Agree("SetWeights", status));
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnValue(*rendezvous_, "SetWeights",
                                         absl::StrCat(parameter, " with the digest ", DigestOf(*p, 0, values).ToHex()),
                                         kMeetingDeadline));
  std::vector<float> master;
  for (const T value : values) master.push_back(AsFloat(value));
  return WriteMaster("SetWeights", *p, master);
}

absl::Status ShardedOptimizer::Impl::WriteMaster(absl::string_view call, int p, absl::Span<const float> values) {
  model_.SetState(layout_.owner(p), StateKind::kMaster, values);
  absl::Status shared = scheduler_->ShareWeights(layout_.buckets_of(layout_.owner(p)));
  shared.Update(state_access_.status());
  return Agree(call, shared);
}

absl::Status ShardedOptimizer::Impl::SetWeights(absl::string_view parameter, absl::Span<const Bf16> values) {
  return SetTypedWeights(parameter, values, DType::kBf16);
}
absl::Status ShardedOptimizer::Impl::SetWeights(absl::string_view parameter, absl::Span<const float> values) {
  return SetTypedWeights(parameter, values, DType::kFp32);
}

absl::StatusOr<OptimizerDigests> ShardedOptimizer::Impl::Digests() {
  return model_.Digests(*kernels_, *caller_, device_.memory(), words_.on_device().digests);
}

bool ShardedOptimizer::Impl::Keeps(int p, StateKind kind) const {
  if (kind == StateKind::kMaster) return true;
  if (groups_.frozen(p)) return false;
  const UpdateKind update = groups_.groups()[groups_.group(p)].kind();
  return kind == StateKind::kFirstMoment ? update.has_first_moment() : update.has_second_moment();
}

absl::StatusOr<std::vector<float>> ShardedOptimizer::Impl::ReadState(absl::string_view parameter, StateKind kind) {
  SHARDSTEP_RETURN_IF_ERROR(RequireInitialized("ReadState"));
  SHARDSTEP_RETURN_IF_ERROR(scheduler_->Settle("ReadState"));
  SHARDSTEP_ASSIGN_OR_RETURN(const int p, FindParameter(parameter));
  if (!Keeps(p, kind)) return std::vector<float>();
  return model_.ReadState(layout_.owner(p), kind);
}

absl::Status ShardedOptimizer::Impl::SetState(absl::string_view parameter, StateKind kind,
                                              absl::Span<const float> values) {
  SHARDSTEP_RETURN_IF_ERROR(RequireInitialized("SetState"));
  absl::Status status = scheduler_->Settle("SetState");
  if (status.ok()) status = scheduler_->CheckBetweenSteps("SetState");
  const absl::StatusOr<int> p = FindParameter(parameter);
  if (status.ok()) status = Annotate(p.status(), "SetState");
  if (status.ok()) {
    const int64_t elements = Keeps(*p, kind) ? layout_.elements(*p) : 0;
    if (static_cast<int64_t>(values.size()) != elements) {
      status = absl::InvalidArgumentError(absl::StrCat("SetState: \"", parameter, "\" has ", elements,
                                                       " elements of its ", Name(kind), ", not ", values.size()));
    }
  }
  SHARDSTEP_RETURN_IF_ERROR(Agree("SetState", status));
  SHARDSTEP_RETURN_IF_ERROR(
      AgreeOnValue(*rendezvous_, "SetState",
                   absl::StrCat(Name(kind), " of ", parameter, " with the digest ", DigestOf(*p, 0, values).ToHex()),
                   kMeetingDeadline));
  if (kind == StateKind::kMaster) return WriteMaster("SetState", *p, values);
  if (!values.empty()) model_.SetState(layout_.owner(*p), kind, values);
  return Agree("SetState", state_access_.status());
}

absl::Status ShardedOptimizer::Impl::SetCounters(const StepCounters& counters,
                                                 absl::Span<const int64_t> begin_applied_steps) {
  absl::Status status = scheduler_->Settle("SetCounters");
  if (status.ok()) status = scheduler_->CheckBetweenSteps("SetCounters");
  if (status.ok()) status = CheckCounters(counters, begin_applied_steps, layout_);
  SHARDSTEP_RETURN_IF_ERROR(Agree("SetCounters", status));
  const std::string what =
      absl::StrCat("step ", counters.step, ", applied ", counters.applied_steps, ", skipped ", counters.skipped_steps,
                   ", consecutive ", counters.consecutive_skips, ", begins ", absl::StrJoin(begin_applied_steps, " "));
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnValue(*rendezvous_, "SetCounters", what, kMeetingDeadline));
  for (int p = 0; p < layout_.parameter_count(); ++p) {
    groups_.SetBeginAppliedStep(p, begin_applied_steps.empty() ? 0 : begin_applied_steps[static_cast<size_t>(p)]);
  }
  scheduler_->RestoreCounters(counters);
  return scheduler_->TakeOverGroups();
}

// ---- Checkpoints -------------------------------------------------------------------------------------------------

std::vector<CheckpointParameterInfo> ShardedOptimizer::Impl::ParameterInfos() const {
  std::vector<CheckpointParameterInfo> infos;
  for (int p = 0; p < layout_.parameter_count(); ++p) {
    infos.push_back({.update = groups_.groups()[groups_.group(p)].kind(),
                     .frozen = groups_.frozen(p),
                     .begin_applied_step = groups_.begin_applied_step(p)});
  }
  return infos;
}

absl::Status ShardedOptimizer::Impl::Save(const std::string& directory, absl::string_view caller_state) {
  if (scheduler_->torn()) return absl::FailedPreconditionError("Save: the optimizer is torn");
  SHARDSTEP_RETURN_IF_ERROR(RequireInitialized("Save"));
  SHARDSTEP_RETURN_IF_ERROR(scheduler_->Settle("Save"));
  const CheckpointPolicy policy{.keep = options_.keep_checkpoints};
  SetAway(policy.deadline);
  const absl::Status status = WriteCheckpoint(directory, caller_state, policy);
  SetAway(absl::ZeroDuration());
  return status;
}

absl::Status ShardedOptimizer::Impl::WriteCheckpoint(const std::string& directory, absl::string_view caller_state,
                                                     const CheckpointPolicy& policy) {
  SHARDSTEP_ASSIGN_OR_RETURN(const OptimizerDigests digests, Digests());
  const StepCounters& counters = scheduler_->counters();
  OptimizerOptions options = options_;
  options.groups.assign(groups_.groups().begin(), groups_.groups().end());
  SHARDSTEP_RETURN_IF_ERROR(
      Annotate(AgreeOnConfiguration(DescribeConfiguration(options, layout_), *rendezvous_, kMeetingDeadline), "Save"));
  const CheckpointInfo info{.step = counters.step,
                            .applied_steps = counters.applied_steps,
                            .skipped_steps = counters.skipped_steps,
                            .consecutive_skips = counters.consecutive_skips,
                            .sum_group = options_.sum_group,
                            .parameters = ParameterInfos(),
                            .options = DescribeOptions(options),
                            .caller_state = std::string(caller_state),
                            .digests = {digests.master, digests.first_moment, digests.second_moment}};
  return SaveCheckpoint(directory, layout_, state_access_, info, *rendezvous_, policy);
}

absl::StatusOr<std::string> ShardedOptimizer::Impl::Load(const std::string& directory,
                                                         std::vector<std::string>* warnings) {
  SHARDSTEP_RETURN_IF_ERROR(scheduler_->Settle("Load"));
  const CheckpointPolicy policy{.keep = options_.keep_checkpoints};
  const std::vector<CheckpointParameterInfo> parameters = ParameterInfos();
  const bool was_initialized = std::exchange(initialized_, false);
  absl::StatusOr<CheckpointInfo> loaded =
      LoadCheckpoint(directory, layout_, state_access_, {.parameters = parameters, .sum_group = options_.sum_group},
                     *rendezvous_, policy, warnings);
  // Where there is none nothing was touched, on any rank.
  if (loaded.status().code() == absl::StatusCode::kNotFound) initialized_ = was_initialized;
  SHARDSTEP_ASSIGN_OR_RETURN(CheckpointInfo info, std::move(loaded));
  scheduler_->RestoreCounters({.step = info.step,
                               .applied_steps = info.applied_steps,
                               .skipped_steps = info.skipped_steps,
                               .consecutive_skips = info.consecutive_skips});
  for (int p = 0; p < layout_.parameter_count(); ++p) {
    groups_.SetBeginAppliedStep(p, info.parameters[p].begin_applied_step);
  }
  SHARDSTEP_RETURN_IF_ERROR(FinishModel("Load"));
  return std::move(info.caller_state);
}

}  // namespace shardstep
