#include "shardstep/runtime/step_scheduler.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"

namespace shardstep {
namespace {

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Adds the time of its scope to `*total_ns`.
class Stopwatch {
 public:
  explicit Stopwatch(int64_t* total_ns) : total_ns_(total_ns), begin_ns_(NowNs()) {}
  ~Stopwatch() { *total_ns_ += NowNs() - begin_ns_; }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  int64_t* total_ns_;
  int64_t begin_ns_;
};

StepPlanInput PlanInput(const StepResources& r, int64_t micro_steps) {
  return {.bucket_count = r.layout->bucket_count(),
          .world_size = r.layout->world_size(),
          .micro_steps = micro_steps,
          .look_for_non_finite = r.options->non_finite != NonFinitePolicy::kIgnore};
}

}  // namespace

StepScheduler::StepScheduler(const StepResources& resources)
    : r_(resources),
      rank_(resources.communicator->rank()),
      world_size_(resources.communicator->world_size()),
      plan_(BuildStepPlan(PlanInput(resources, resources.options->micro_steps), resources.communicator->traits())) {
  const int buckets = r_.layout->bucket_count();
  for (int b = 0; b < buckets; ++b) segments_.push_back(r_.layout->Segments(b, rank_));
  gradients_.resize(r_.layout->parameter_count());
  missing_.resize(buckets);
  bucket_writable_.resize(buckets);
  bucket_published_.assign(buckets, true);
  read_done_.resize(buckets);
  weights_done_.resize(buckets);
  done_.resize(plan_.nodes.size());
  scalars_.groups.resize(r_.options->groups.size());
  BeginMicroStep();
}

// ---- The step, as it flows: gradients, micro-step, step, weights, record -------------------------------------------

absl::Status StepScheduler::GradientWritable(int p) {
  SHARDSTEP_RETURN_IF_ERROR(CheckParameter(p, "GradientWritable"));
  if (micro_step_ == plan_.input.micro_steps) {
    return absl::FailedPreconditionError("GradientWritable: all micro-steps have ended; call Step first");
  }
  if (gradients_[p] == GradientState::kReady) {
    return absl::FailedPreconditionError(absl::StrCat("GradientWritable: the gradient of \"",
                                                      r_.layout->parameter(p).name,
                                                      "\" was already marked ready in this micro-step"));
  }
  return AwaitWritable(p);
}

absl::Status StepScheduler::GradientReady(int p) {
  SHARDSTEP_RETURN_IF_ERROR(CheckParameter(p, "GradientReady"));
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
  SHARDSTEP_RETURN_IF_ERROR(ValidateArguments(arguments, *r_.options, micro_steps, world_size_));

  decision_input_ = {.arguments = arguments, .counters = counters_, .micro_steps = micro_steps};
  int64_t& micro_batches = decision_input_.arguments.micro_batches;
  if (micro_batches == 0) micro_batches = micro_steps * world_size_;
  if (last_contribution_ * world_size_ + rank_ >= micro_batches) {
    decision_input_.misplaced_micro_step = last_contribution_;
  }
  step_begin_ns_ = NowNs();
  in_flight_ = true;
  const auto [first, last] = plan_.AfterGradients();
  SHARDSTEP_RETURN_IF_ERROR(Issue(first, last));
  r_.update->Enqueue("EndOfStep", [this] {
    updating_ = false;
    step_end_ns_ = NowNs();
    return absl::OkStatus();
  });
  step_done_ = r_.update->Record();

  bucket_published_.assign(bucket_published_.size(), false);
  ++issued_steps_;
  first_micro_step_ += micro_steps;
  micro_step_ = 0;
  last_contribution_ = -1;
  BeginMicroStep();
  return absl::OkStatus();
}

absl::Status StepScheduler::WeightsReady(int p) {
  SHARDSTEP_RETURN_IF_ERROR(CheckParameter(p, "WeightsReady"));
  const auto [first, last] = r_.layout->buckets_of(p);
  for (int b = first; b <= last; ++b) SHARDSTEP_RETURN_IF_ERROR(AwaitPublished(b));
  return Healthy();
}

absl::StatusOr<StepRecord> StepScheduler::FinishStep() {
  if (!in_flight_) return absl::FailedPreconditionError("FinishStep: no step is in flight");
  {
    const Stopwatch exposed(&exposed_ns_);
    // The error, if any, is found and reported by Healthy.
    r_.update->Synchronize(step_done_).IgnoreError();
  }
  SHARDSTEP_RETURN_IF_ERROR(Healthy());
  in_flight_ = false;
  counters_ = decision_.counters;
  SHARDSTEP_RETURN_IF_ERROR(decision_.refused);
  StepRecord record = decision_.record;
  record.step_ns = step_end_ns_ - step_begin_ns_;
  record.exposed_ns = exposed_ns_;
  exposed_ns_ = 0;
  return record;
}

// ---- The plan, node by node ----------------------------------------------------------------------------------------

absl::Status StepScheduler::Issue(int first, int last) {
  for (int i = first; i < last; ++i) {
    const StepNode& node = plan_.nodes[i];
    Stream& stream = StreamOf(node.stream);
    if (node.waits_for_caller) stream.Wait(r_.caller->Record());
    for (const int earlier : node.waits) stream.Wait(done_[earlier]);
    launch_error_.Update(Annotate(Launch(node, stream), ToString(node)));
    if (!launch_error_.ok()) return Healthy();
    done_[i] = stream.Record();
    if (node.read_slices || node.op == StepOp::kRelease) read_done_[node.bucket] = done_[i];
    if (node.op == StepOp::kUpdate || node.op == StepOp::kPublish) weights_done_[node.bucket] = done_[i];
  }
  return absl::OkStatus();
}

absl::Status StepScheduler::Launch(const StepNode& node, Stream& stream) {
  const int64_t micro_step = first_micro_step_ + node.micro_step;
  switch (node.op) {
    case StepOp::kExchange:
      return r_.communicator->Exchange(node.bucket, micro_step, stream);
    case StepOp::kAwaitSlices:
      return r_.communicator->AwaitSlices(node.bucket, micro_step, stream);
    case StepOp::kReduce:
      return LaunchReduce(node, stream);
    case StepOp::kRelease:
      return r_.communicator->Release(node.bucket, micro_step, stream);
    case StepOp::kContribute:
      LaunchContribute();
      return absl::OkStatus();
    case StepOp::kAllReduceSmall:
      return r_.communicator->AllReduceSmall(&reduction_, stream);
    case StepOp::kDecide:
      LaunchDecide();
      return absl::OkStatus();
    case StepOp::kUpdate:
      return LaunchUpdate(node, stream);
    case StepOp::kPublish:
      return r_.communicator->Publish(node.bucket, issued_steps_, stream);
  }
  return absl::InternalError("unknown operation");
}

absl::Status StepScheduler::LaunchReduce(const StepNode& node, Stream& stream) {
  float* accumulator = r_.state->accumulator();
  if (plan_.uses_accumulator) accumulator += r_.layout->state_begin_element(node.bucket);
  return r_.kernels->Reduce({.segments = segments_[node.bucket],
                             .slices = Slices(node),
                             .first_micro_batch = node.micro_step * world_size_,
                             .accumulator_in = node.read_accumulator ? accumulator : nullptr,
                             .accumulator_out = node.write_accumulator ? accumulator : nullptr,
                             .take_norm = node.take_norm,
                             .scan = node.scan ? &scan_ : nullptr,
                             .layout = r_.layout},
                            stream);
}

absl::Status StepScheduler::LaunchUpdate(const StepNode& node, Stream& stream) {
  const int64_t begin = r_.layout->state_begin_element(node.bucket);
  return r_.kernels->Update({.segments = segments_[node.bucket],
                             .slices = node.read_slices ? Slices(node) : absl::Span<const Slice>(),
                             .accumulator = node.read_accumulator ? r_.state->accumulator() + begin : nullptr,
                             .master = r_.state->master() + begin,
                             .first_moment = r_.state->first_moment() + begin,
                             .second_moment = r_.state->second_moment() + begin,
                             .destinations = r_.communicator->Destinations(node.bucket),
                             .scalars = &scalars_},
                            stream);
}

void StepScheduler::LaunchContribute() {
  r_.update->Enqueue("Contribute", [this] {
    reduction_ = Contribute(decision_input_, scan_, rank_);
    scan_ = ScanResult();
    return absl::OkStatus();
  });
}

void StepScheduler::LaunchDecide() {
  r_.update->Enqueue("Decide", [this] {
    decision_ = Decide(decision_input_, reduction_, *r_.options, *r_.layout);
    scalars_.apply = decision_.apply;
    scalars_.scale = decision_.scale;
    for (size_t i = 0; i < scalars_.groups.size() && decision_.apply; ++i) {
      scalars_.groups[i] = MakeAdamWScalars(r_.options->groups[i], decision_input_.arguments.learning_rate,
                                            decision_.counters.applied_steps);
    }
    updating_ = decision_.apply;
    return absl::OkStatus();
  });
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

absl::Span<const Slice> StepScheduler::Slices(const StepNode& node) const {
  const int64_t micro_step = node.micro_step >= 0 ? node.micro_step : plan_.input.micro_steps - 1;
  return r_.communicator->slices(node.bucket, first_micro_step_ + micro_step);
}

// ---- Gradients and weights of this rank ----------------------------------------------------------------------------

void StepScheduler::BeginMicroStep() {
  gradients_.assign(gradients_.size(), GradientState::kUnknown);
  bucket_writable_.assign(bucket_writable_.size(), false);
  for (size_t b = 0; b < missing_.size(); ++b) {
    missing_[b] = static_cast<int>(r_.layout->parameters_of(static_cast<int>(b)).size());
  }
  next_bucket_ = 0;
}

absl::Status StepScheduler::AwaitWritable(int p) {
  const int64_t last_micro_step = first_micro_step_ + micro_step_ - 1;
  const auto [first, last] = r_.layout->buckets_of(p);
  for (int b = first; b <= last; ++b) {
    if (bucket_writable_[b] || last_micro_step < 0) continue;
    const Stopwatch exposed(&exposed_ns_);
    if (plan_.kernels_read_gradients) r_.caller->Wait(read_done_[b]);
    if (plan_.communicates()) {
      SHARDSTEP_RETURN_IF_ERROR(r_.communicator->AwaitReleased(b, last_micro_step, *r_.caller));
    }
    bucket_writable_[b] = true;
  }
  SHARDSTEP_RETURN_IF_ERROR(Healthy());
  if (gradients_[p] == GradientState::kUnknown && r_.options->accumulate_gradients) {
    SHARDSTEP_RETURN_IF_ERROR(ZeroGradient(p));
  }
  gradients_[p] = GradientState::kWritable;
  return absl::OkStatus();
}

absl::Status StepScheduler::MarkReady(int p) {
  gradients_[p] = GradientState::kReady;
  const auto [first, last] = r_.layout->buckets_of(p);
  for (int b = first; b <= last; ++b) --missing_[b];
  while (next_bucket_ < r_.layout->bucket_count() && missing_[next_bucket_] == 0) {
    const auto [begin, end] = plan_.Range(micro_step_, next_bucket_++);
    SHARDSTEP_RETURN_IF_ERROR(Issue(begin, end));
  }
  return Healthy();
}

absl::Status StepScheduler::FillMissing() {
  for (int p = 0; p < r_.layout->parameter_count(); ++p) {
    if (gradients_[p] == GradientState::kReady) continue;
    if (r_.options->missing_gradient == MissingGradientPolicy::kRefuse) {
      return absl::FailedPreconditionError(
          absl::StrCat("EndMicroStep: the gradient of \"", r_.layout->parameter(p).name,
                       "\" was not marked ready in micro-step ", micro_step_, " (missing_gradient is REFUSE)"));
    }
  }
  for (int p = 0; p < r_.layout->parameter_count(); ++p) {
    if (gradients_[p] == GradientState::kReady) continue;
    SHARDSTEP_RETURN_IF_ERROR(AwaitWritable(p));
    SHARDSTEP_RETURN_IF_ERROR(ZeroGradient(p));
    SHARDSTEP_RETURN_IF_ERROR(MarkReady(p));
  }
  return absl::OkStatus();
}

absl::Status StepScheduler::ZeroGradient(int p) {
  Bf16* arena = r_.communicator->gradients().as<Bf16>();
  return r_.kernels->Zero({absl::MakeSpan(arena + r_.layout->arena_begin_element(p), r_.layout->elements(p))},
                          *r_.caller);
}

absl::Status StepScheduler::AwaitPublished(int b) {
  if (bucket_published_[b]) return absl::OkStatus();
  const Stopwatch exposed(&exposed_ns_);
  r_.caller->Wait(weights_done_[b]);
  if (plan_.communicates()) {
    SHARDSTEP_RETURN_IF_ERROR(r_.communicator->AwaitPublished(b, issued_steps_ - 1, *r_.caller));
  }
  bucket_published_[b] = true;
  return absl::OkStatus();
}

absl::Status StepScheduler::Settle(absl::string_view call) {
  SHARDSTEP_RETURN_IF_ERROR(Healthy());
  if (in_flight_) return absl::FailedPreconditionError(absl::StrCat(call, ": call FinishStep of the last step first"));
  for (int b = 0; b < r_.layout->bucket_count(); ++b) SHARDSTEP_RETURN_IF_ERROR(AwaitPublished(b));
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

absl::Status StepScheduler::SetMicroSteps(int64_t micro_steps) {
  SHARDSTEP_RETURN_IF_ERROR(CheckBetweenSteps("SetMicroSteps"));
  plan_ = BuildStepPlan(PlanInput(r_, micro_steps), r_.communicator->traits());
  if (plan_.uses_accumulator && r_.state->accumulator() == nullptr) {
    return absl::InternalError("SetMicroSteps: the state has no accumulator");
  }
  done_.assign(plan_.nodes.size(), Event());
  return absl::OkStatus();
}

absl::Status StepScheduler::CheckParameter(int p, absl::string_view call) const {
  if (p >= 0 && p < r_.layout->parameter_count()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(call, ": parameter ", p, " is not in [0, ", r_.layout->parameter_count(), ")"));
}

// The first error of any stream ends the job: the other ranks learn of it at once instead of by their deadlines.
absl::Status StepScheduler::Healthy() {
  absl::Status status = launch_error_;
  if (status.ok()) status = r_.update->status();
  if (status.ok()) status = r_.caller->status();
  if (status.ok()) status = r_.exchange->status();
  if (status.ok()) return status;
  torn_ = torn_ || updating_;
  r_.communicator->Abort(status);
  return torn_ ? Annotate(status, "the optimizer is torn (an update failed half-way)") : status;
}

}  // namespace shardstep
