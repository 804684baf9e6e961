#include "shardstep/runtime/step_scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shardstep/runtime/plan_input.h"

namespace shardstep {
namespace {

StepPlan MakePlan(const StepResources& r, int64_t micro_steps, bool joins) {
  StepPlanInput input = MakePlanInput(*r.options, *r.groups, *r.layout, *r.map, micro_steps);
  input.joins = joins;
  return BuildStepPlan(input, TraitsOf(*r.host, r.network));
}

}  // namespace

StepScheduler::StepScheduler(const StepResources& resources)
    : r_(resources),
      world_size_(resources.layout->world_size()),
      plan_(MakePlan(resources, resources.options->micro_steps, /*joins=*/false)),
      launcher_(resources) {
  const int buckets = r_.layout->bucket_count();
  gradients_.resize(r_.layout->parameter_count());
  tied_.resize(r_.layout->parameter_count());
  for (int p = 0; p < r_.layout->parameter_count(); ++p) tied_[r_.layout->owner(p)].push_back(p);
  missing_.resize(buckets);
  bucket_writable_.resize(buckets);
  bucket_published_.assign(buckets, true);
  read_done_.resize(buckets);
  weights_done_.resize(buckets);
  BeginPlan();
}

// ---- The step, as it flows: gradients, micro-step, step, weights, record -------------------------------------------

absl::Status StepScheduler::GradientWritable(int p) {
  SHARDSTEP_RETURN_IF_ERROR(CheckTrained(p, "GradientWritable"));
  if (micro_step_ == plan_.input.micro_steps) {
    return absl::FailedPreconditionError("GradientWritable: all micro-steps have ended; call Step first");
  }
  if (gradients_[p] == GradientState::kReady) {
    return absl::FailedPreconditionError(absl::StrCat("GradientWritable: the gradient of \"",
                                                      r_.layout->parameter(p).name,
                                                      "\" was already marked ready in this micro-step"));
  }
  return AwaitWritable(p, "GradientWritable");
}

absl::Status StepScheduler::GradientReady(int p) {
  SHARDSTEP_RETURN_IF_ERROR(CheckTrained(p, "GradientReady"));
  if (gradients_[p] != GradientState::kWritable) {
    return absl::FailedPreconditionError(absl::StrCat("GradientReady: \"", r_.layout->parameter(p).name, "\" ",
                                                      gradients_[p] == GradientState::kReady
                                                          ? "was already marked ready in this micro-step"
                                                          : "needs GradientWritable first"));
  }
  last_contribution_ = micro_step_;
  return MarkReady(p);
}

absl::Status StepScheduler::EndMicroStep() {
  SHARDSTEP_RETURN_IF_ERROR(Healthy());
  if (micro_step_ == plan_.input.micro_steps) {
    return absl::FailedPreconditionError(
        absl::StrCat("EndMicroStep: all ", plan_.input.micro_steps, " micro-steps have ended; call Step first"));
  }
  SHARDSTEP_RETURN_IF_ERROR(FillMissing());
  ++micro_step_;
  BeginMicroStep();
  return absl::OkStatus();
}

absl::Status StepScheduler::Step(const StepArguments& arguments) {
  SHARDSTEP_RETURN_IF_ERROR(Healthy());
  const int64_t micro_steps = plan_.input.micro_steps;
  if (in_flight_) return absl::FailedPreconditionError("Step: call FinishStep of the last step first");
  if (micro_step_ != micro_steps) {
    return absl::FailedPreconditionError(
        absl::StrCat("Step: ", micro_step_, " of ", micro_steps, " micro-steps have ended"));
  }
  SHARDSTEP_RETURN_IF_ERROR(CheckArguments(arguments));
  // Shards of the last step may still be on their way from here.
  for (int b = 0; b < r_.layout->bucket_count(); ++b) SHARDSTEP_RETURN_IF_ERROR(AwaitPublished(b, "Step"));
  SHARDSTEP_RETURN_IF_ERROR(Healthy());

  SHARDSTEP_RETURN_IF_ERROR(Order(arguments, last_contribution_));
  if (others_ != nullptr) others_->StepCalled();
  step_begin_ns_ = SteadyNowNs();
  in_flight_ = true;
  const auto [first, last] = plan_.AfterGradients();
  SHARDSTEP_RETURN_IF_ERROR(Issue(first, last));
  // Updates end before the weights of the last one leave, on whichever stream.
  StreamOf(plan_.nodes.back().stream).Call("EndOfPublishing", [this, step = position_.step] {
    launcher_.EndUpdating(step);
  });
  r_.update->Call("EndOfStep", [this] { step_end_ns_ = SteadyNowNs(); });
  step_done_ = r_.update->Record();

  for (int b = 0; b < r_.layout->bucket_count(); ++b) bucket_published_[b] = !plan_.input.active[b];
  ++position_.step;
  ++step_number_;
  position_.first_exchange += plan_.exchanges();
  micro_step_ = 0;
  captured_contribution_ = last_contribution_;
  last_contribution_ = -1;
  BeginMicroStep();
  return absl::OkStatus();
}

absl::Status StepScheduler::WeightsReady(int p) {
  SHARDSTEP_RETURN_IF_ERROR(CheckParameter(p, "WeightsReady"));
  for (const int b : r_.layout->buckets_of(p)) SHARDSTEP_RETURN_IF_ERROR(AwaitPublished(b, "WeightsReady"));
  return Healthy();
}

absl::StatusOr<StepRecord> StepScheduler::FinishStep() {
  if (!in_flight_) return absl::FailedPreconditionError("FinishStep: no step is in flight");
  if (capturing_) return absl::FailedPreconditionError("FinishStep: the step is being captured; call EndCapture");
  SHARDSTEP_RETURN_IF_ERROR(AwaitStep());
  in_flight_ = false;
  SHARDSTEP_ASSIGN_OR_RETURN(const Decision decision, launcher_.TakeDecision());
  counters_ = decision.counters;
  SHARDSTEP_RETURN_IF_ERROR(decision.refused);
  StepRecord record = decision.record;
  record.step_ns = step_end_ns_ - step_begin_ns_;
  record.exposed_ns = exposed_ns_;
  exposed_ns_ = 0;
  return record;
}

absl::Status StepScheduler::CheckArguments(const StepArguments& arguments) const {
  return ValidateArguments(arguments, *r_.options, r_.groups->groups(), plan_.input.micro_steps, world_size_);
}

absl::Status StepScheduler::Order(const StepArguments& arguments, int64_t last_contribution) {
  if (std::exchange(settings_changed_, false)) SHARDSTEP_RETURN_IF_ERROR(launcher_.TakeOverSettings());
  DecisionInput input{.arguments = arguments,
                      .counters = counters_,
                      .micro_steps = plan_.input.micro_steps,
                      .settings = r_.groups->settings_hashes()};
  int64_t& micro_batches = input.arguments.micro_batches;
  if (micro_batches == 0) micro_batches = plan_.input.micro_steps * world_size_;
  if (last_contribution * world_size_ + r_.rank >= micro_batches) input.misplaced_micro_step = last_contribution;
  launcher_.SetDecisionInput(input, position_.step);
  return absl::OkStatus();
}

absl::Status StepScheduler::AwaitStep() {
  const CallerWait wait("FinishStep", step_number_ - 1, /*bucket=*/-1, tracer_, &exposed_ns_);
  // Errors, if any, are found and reported by Healthy.
  if (replayed_) {
    r_.caller->Synchronize(r_.caller->Record()).IgnoreError();
    // The graph has told the step in which it was captured.
    launcher_.EndUpdating(position_.step - 1);
    replayed_ = false;
  } else {
    r_.update->Synchronize(step_done_).IgnoreError();
  }
  return Healthy();
}

// ---- The plan, node by node ----------------------------------------------------------------------------------------

namespace {

// Whether the node reads this rank's gradients where the caller wrote them.
bool ReadsGradients(const StepPlan& plan, const StepNode& node) {
  return plan.gradients.local_sums ? node.op == StepOp::kAccumulate : node.read_slices;
}

}  // namespace

absl::Status StepScheduler::Issue(int first, int last) {
  for (int i = first; i < last; ++i) {
    const StepNode& node = plan_.nodes[i];
    Stream& stream = StreamOf(node.stream);
    r_.device->BeginRange(names_[i].c_str());
    if (node.waits_for_caller) stream.Wait(r_.caller->Record());
    for (const int earlier : node.waits) stream.Wait(done_[earlier]);
    const auto launch = [&] { return launcher_.Launch(plan_, node, position_, stream); };
    launch_error_.Update(Annotate(tracer_.Launch(node, step_number_, stream, launch), names_[i]));
    r_.device->EndRange();
    if (!launch_error_.ok()) return Healthy();
    done_[i] = stream.Record();
    if (ReadsGradients(plan_, node)) read_done_[node.bucket] = done_[i];
    if (node.op == StepOp::kUpdate) weights_done_[node.bucket] = done_[i];
  }
  return absl::OkStatus();
}

void StepScheduler::SetTrace(StepTrace* trace) {
  // Their errors are found and reported by Healthy.
  r_.exchange->Synchronize(r_.exchange->Record()).IgnoreError();
  r_.update->Synchronize(r_.update->Record()).IgnoreError();
  tracer_.Set(trace);
}

Stream& StepScheduler::StreamOf(StepStream stream) const {
  switch (stream) {
    case StepStream::kCaller:
      return *r_.caller;
    case StepStream::kExchange:
      return *r_.exchange;
    case StepStream::kUpdate:
      break;
  }
  return *r_.update;
}

// ---- Gradients and weights of this rank ----------------------------------------------------------------------------

void StepScheduler::BeginPlan() {
  done_.assign(plan_.nodes.size(), Event());
  names_.clear();
  for (const StepNode& node : plan_.nodes) names_.push_back(ToString(node));
  BeginMicroStep();
}

void StepScheduler::BeginMicroStep() {
  gradients_.assign(gradients_.size(), GradientState::kUnknown);
  bucket_writable_.assign(bucket_writable_.size(), false);
  missing_.assign(missing_.size(), 0);
  for (int p = 0; p < r_.layout->parameter_count(); ++p) {
    if (r_.groups->frozen(p)) continue;
    for (const int b : r_.layout->buckets_of(p)) ++missing_[b];
  }
  next_bucket_ = 0;
}

absl::Status StepScheduler::AwaitWritable(int p, const char* call) {
  for (const int b : r_.layout->buckets_of(p)) {
    if (bucket_writable_[b]) continue;
    const CallerWait wait(call, step_number_, b, tracer_, &exposed_ns_);
    const int64_t last_exchange = launcher_.last_exchange(b);
    if (!plan_.communicates() || plan_.gradients.local_sums) {
      r_.caller->Wait(read_done_[b]);
    } else if (last_exchange >= 0) {
      SHARDSTEP_RETURN_IF_ERROR(r_.host->AwaitReleased(b, last_exchange, *r_.caller));
    }
    bucket_writable_[b] = true;
  }
  SHARDSTEP_RETURN_IF_ERROR(Healthy());
  if (r_.options->accumulate_gradients && StateOfTied(p) == GradientState::kUnknown) {
    SHARDSTEP_RETURN_IF_ERROR(ZeroGradient(p));
  }
  gradients_[p] = GradientState::kWritable;
  return absl::OkStatus();
}

absl::Status StepScheduler::MarkReady(int p) {
  gradients_[p] = GradientState::kReady;
  for (const int b : r_.layout->buckets_of(p)) --missing_[b];
  while (next_bucket_ < r_.layout->bucket_count() && missing_[next_bucket_] == 0) {
    const auto [begin, end] = plan_.Range(micro_step_, next_bucket_++);
    SHARDSTEP_RETURN_IF_ERROR(Issue(begin, end));
  }
  return Healthy();
}

absl::Status StepScheduler::FillMissing() {
  for (int p = 0; p < r_.layout->parameter_count(); ++p) {
    if (r_.groups->frozen(p) || StateOfTied(p) == GradientState::kReady) continue;
    if (r_.options->missing_gradient == MissingGradientPolicy::kRefuse) {
      return absl::FailedPreconditionError(
          absl::StrCat("EndMicroStep: the gradient of \"", r_.layout->parameter(p).name,
                       "\" was not marked ready in micro-step ", micro_step_, " (missing_gradient is REFUSE)"));
    }
  }
  for (int p = 0; p < r_.layout->parameter_count(); ++p) {
    if (r_.groups->frozen(p) || gradients_[p] == GradientState::kReady) continue;
    // One of several names of a gradient may stay unused: what the others wrote stands.
    if (StateOfTied(p) != GradientState::kReady) {
      SHARDSTEP_RETURN_IF_ERROR(AwaitWritable(p, "EndMicroStep"));
      SHARDSTEP_RETURN_IF_ERROR(ZeroGradient(p));
    }
    SHARDSTEP_RETURN_IF_ERROR(MarkReady(p));
  }
  return absl::OkStatus();
}

absl::Status StepScheduler::ZeroGradient(int p) {
  const int64_t size_bytes = r_.layout->elements(p) * SizeBytes(r_.layout->parameter(p).gradient_dtype);
  return r_.kernels->Zero({{r_.gradients.data + r_.layout->gradient_begin_byte(p), size_bytes}}, *r_.caller);
}

// How far the gradient is that p shares with the parameters it is tied to.
StepScheduler::GradientState StepScheduler::StateOfTied(int p) const {
  GradientState state = GradientState::kUnknown;
  for (const int q : tied_[r_.layout->owner(p)]) state = std::max(state, gradients_[q]);
  return state;
}

absl::Status StepScheduler::AwaitPublished(int b, const char* call) {
  if (bucket_published_[b]) return absl::OkStatus();
  const CallerWait wait(call, step_number_ - 1, b, tracer_, &exposed_ns_);
  if (plan_.communicates()) {
    SHARDSTEP_RETURN_IF_ERROR(r_.host->AwaitPublished(b, position_.step - 1, *r_.caller));
  } else {
    r_.caller->Wait(weights_done_[b]);
  }
  bucket_published_[b] = true;
  return absl::OkStatus();
}

absl::Status StepScheduler::CheckNotInFlight(absl::string_view call) {
  SHARDSTEP_RETURN_IF_ERROR(Healthy());
  if (!in_flight_) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(call, ": call FinishStep of the last step first"));
}

absl::Status StepScheduler::Settle(absl::string_view call) {
  SHARDSTEP_RETURN_IF_ERROR(CheckNotInFlight(call));
  for (int b = 0; b < r_.layout->bucket_count(); ++b) SHARDSTEP_RETURN_IF_ERROR(AwaitPublished(b, "AwaitPublished"));
  // The host is about to read and write what the stream has waited for. Errors are found by Healthy.
  r_.caller->Synchronize(r_.caller->Record()).IgnoreError();
  return Healthy();
}

absl::Status StepScheduler::ShareWeights(absl::Span<const int> buckets) {
  SHARDSTEP_RETURN_IF_ERROR(Settle("ShareWeights"));
  if (world_size_ == 1) return absl::OkStatus();
  const int64_t step = position_.step++;
  Communicator* const levels[] = {r_.network, r_.host};
  for (Communicator* level : levels) {
    if (level == nullptr) continue;
    for (const int b : buckets) SHARDSTEP_RETURN_IF_ERROR(level->Publish(b, step, *r_.caller));
    for (const int b : buckets) SHARDSTEP_RETURN_IF_ERROR(level->AwaitPublished(b, step, *r_.caller));
  }
  // The next ones come after a meeting, which must find these here. Errors are found by Healthy.
  r_.caller->Synchronize(r_.caller->Record()).IgnoreError();
  return Healthy();
}

bool StepScheduler::idle() const { return !in_flight_ && BetweenSteps(); }

bool StepScheduler::BetweenSteps() const {
  return micro_step_ == 0 && std::all_of(gradients_.begin(), gradients_.end(),
                                         [](GradientState state) { return state == GradientState::kUnknown; });
}

absl::Status StepScheduler::CheckBetweenSteps(absl::string_view call) {
  SHARDSTEP_RETURN_IF_ERROR(Healthy());
  return BetweenSteps() ? absl::OkStatus() : absl::FailedPreconditionError(absl::StrCat(call, ": inside a step"));
}

absl::Status StepScheduler::Replan(int64_t micro_steps) {
  SHARDSTEP_RETURN_IF_ERROR(CheckBetweenSteps("a change of the plan"));
  plan_ = MakePlan(r_, micro_steps, others_ != nullptr);
  BeginPlan();
  return absl::OkStatus();
}

absl::Status StepScheduler::DecideWith(OtherOptimizers* others) {
  SHARDSTEP_RETURN_IF_ERROR(Settle("a joint decision"));
  others_ = others;
  launcher_.SetOthers(others);
  return Replan(plan_.input.micro_steps);
}

absl::Status StepScheduler::TakeOverGroups() {
  SHARDSTEP_RETURN_IF_ERROR(Settle("a change of groups"));
  captured_.clear();
  SHARDSTEP_RETURN_IF_ERROR(launcher_.TakeOverGroups());
  return Replan(plan_.input.micro_steps);
}

absl::Status StepScheduler::CheckParameter(int p, absl::string_view call) const {
  if (p >= 0 && p < r_.layout->parameter_count()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(call, ": parameter ", p, " is not in [0, ", r_.layout->parameter_count(), ")"));
}

absl::Status StepScheduler::CheckTrained(int p, absl::string_view call) const {
  SHARDSTEP_RETURN_IF_ERROR(CheckParameter(p, call));
  if (!r_.groups->frozen(p)) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(call, ": \"", r_.layout->parameter(p).name, "\" is frozen"));
}

// The first error of any stream ends the job: the other ranks learn of it at once instead of by their deadlines.
absl::Status StepScheduler::Healthy() {
  absl::Status status = launch_error_;
  if (status.ok()) status = r_.update->status();
  if (status.ok()) status = r_.caller->status();
  if (status.ok()) status = r_.exchange->status();
  if (status.ok()) return status;
  torn_ = torn_ || launcher_.updating();
  r_.host->Abort(status);
  if (r_.network != nullptr) r_.network->Abort(status);
  if (others_ != nullptr) others_->Abort(status);
  return torn_ ? Annotate(status, "the optimizer is torn (an update failed half-way)") : status;
}

}  // namespace shardstep
