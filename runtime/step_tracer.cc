#include "shardstep/runtime/step_tracer.h"

#include <chrono>
#include <memory>

namespace shardstep {
namespace {

// Calls that found nothing to wait for would hide the others.
constexpr int64_t kShortestWaitNs = 1000;

}  // namespace

int64_t SteadyNowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

absl::Status StepTracer::Launch(const StepNode& node, int64_t step, Stream& stream,
                                absl::FunctionRef<absl::Status()> launch) const {
  if (trace_ == nullptr) return launch();
  // Of this launch alone: nodes of the next step are launched while this one's run.
  const auto span = std::make_shared<TraceSpan>(TraceSpan{.name = ToString(node.op),
                                                          .stream = node.stream,
                                                          .level = node.level,
                                                          .step = step,
                                                          .bucket = node.bucket,
                                                          .micro_step = node.micro_step});
  stream.Call("BeginOfSpan", [span] { span->begin_ns = SteadyNowNs(); });
  SHARDSTEP_RETURN_IF_ERROR(launch());
  stream.Call("EndOfSpan", [span, trace = trace_] {
    span->end_ns = SteadyNowNs();
    trace->Add(*span);
  });
  return absl::OkStatus();
}

void StepTracer::Add(const TraceSpan& wait) const {
  if (trace_ != nullptr && wait.end_ns - wait.begin_ns >= kShortestWaitNs) trace_->Add(wait);
}

CallerWait::CallerWait(const char* call, int64_t step, int bucket, const StepTracer& tracer, int64_t* exposed_ns)
    : span_{.name = call, .caller_waits = true, .step = step, .bucket = bucket, .begin_ns = SteadyNowNs()},
      tracer_(tracer),
      exposed_ns_(exposed_ns) {}

CallerWait::~CallerWait() {
  span_.end_ns = SteadyNowNs();
  *exposed_ns_ += span_.end_ns - span_.begin_ns;
  tracer_.Add(span_);
}

}  // namespace shardstep
