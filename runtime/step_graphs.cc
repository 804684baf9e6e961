// Steps by CUDA graphs: what StepScheduler does while one is captured, and to take a step by one.
#include <utility>

#include "absl/strings/str_cat.h"
#include "shardstep/runtime/step_scheduler.h"

namespace shardstep {

absl::Status StepScheduler::BeginCapture() {
  SHARDSTEP_RETURN_IF_ERROR(Settle("BeginCapture"));
  SHARDSTEP_RETURN_IF_ERROR(CheckBetweenSteps("BeginCapture"));
  const bool levels_capture =
      !plan_.communicates() || (r_.host->traits().captures && (r_.network == nullptr || r_.network->traits().captures));
  if (!r_.device->captures() || !levels_capture) {
    return absl::UnimplementedError(absl::StrCat(
        "BeginCapture: ", r_.device->captures() ? "a communicator" : "the device", " cannot be captured into a graph"));
  }
  if (others_ != nullptr || tracer_.traces()) {
    return absl::FailedPreconditionError(
        absl::StrCat("BeginCapture: ", tracer_.traces() ? "a trace is set" : "others take part in the decision"));
  }
  SHARDSTEP_RETURN_IF_ERROR(SynchronizeAll());
  SettleAll();
  capturing_ = true;
  return absl::OkStatus();
}

absl::Status StepScheduler::EndCapture() {
  if (!std::exchange(capturing_, false)) {
    return absl::FailedPreconditionError("EndCapture: call BeginCapture first");
  }
  if (!in_flight_) return absl::FailedPreconditionError("EndCapture: call Step first, inside the capture");
  for (int b = 0; b < r_.layout->bucket_count(); ++b) SHARDSTEP_RETURN_IF_ERROR(AwaitPublished(b, "EndCapture"));
  // Whatever has joined the capture must come back to the stream that began it.
  for (Stream* stream : {r_.exchange, r_.update}) {
    stream->Wait(r_.caller->Record());
    r_.caller->Wait(stream->Record());
  }
  SettleAll();
  captured_[plan_.input.micro_steps] = captured_contribution_;
  in_flight_ = false;
  --step_number_;
  return Healthy();
}

absl::Status StepScheduler::Replay(const StepArguments& arguments) {
  SHARDSTEP_RETURN_IF_ERROR(CheckBetweenSteps("Replay"));
  if (in_flight_) return absl::FailedPreconditionError("Replay: call FinishStep of the last step first");
  const auto captured = captured_.find(plan_.input.micro_steps);
  if (capturing_ || captured == captured_.end()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "Replay: no step of ", plan_.input.micro_steps,
        " micro-steps was captured since a group was last added, or the model frozen, thawed, initialized or ",
        "loaded"));
  }
  SHARDSTEP_RETURN_IF_ERROR(CheckArguments(arguments));
  // So that the graph comes after all of the last step.
  for (int b = 0; b < r_.layout->bucket_count(); ++b) SHARDSTEP_RETURN_IF_ERROR(AwaitPublished(b, "Replay"));
  SHARDSTEP_RETURN_IF_ERROR(Order(arguments, captured->second));
  step_begin_ns_ = SteadyNowNs();
  in_flight_ = true;
  replayed_ = true;
  ++position_.step;
  ++step_number_;
  return absl::OkStatus();
}

absl::Status StepScheduler::SynchronizeAll() {
  // Errors, if any, are found and reported by Healthy.
  for (Stream* stream : {r_.caller, r_.exchange, r_.update}) stream->Synchronize(stream->Record()).IgnoreError();
  return Healthy();
}

void StepScheduler::SettleAll() {
  for (Stream* stream : {r_.caller, r_.exchange, r_.update}) r_.device->Settle(*stream);
  r_.host->Settle();
  if (r_.network != nullptr) r_.network->Settle();
}

}  // namespace shardstep
