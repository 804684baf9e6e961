#ifndef SHARDSTEP_RUNTIME_STEP_TRACER_H_
#define SHARDSTEP_RUNTIME_STEP_TRACER_H_

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "shardstep/comm/status.h"
#include "shardstep/comm/stream.h"
#include "shardstep/runtime/step_plan.h"
#include "shardstep/runtime/step_trace.h"

namespace shardstep {

/// Of std::chrono::steady_clock.
int64_t SteadyNowNs();

/// Makes spans of what the scheduler does, for a StepTrace. One thread, the caller's.
class StepTracer {
 public:
  bool traces() const { return trace_ != nullptr; }
  /// What is launched from now on is told to `trace`, which outlives its work on the streams; nullptr: to nobody.
  void Set(StepTrace* trace) { trace_ = trace; }

  /// Calls `launch`, which enqueues the work of `node` on `stream`, and has the stream note when that work ran.
  absl::Status Launch(const StepNode& node, int64_t step, Stream& stream,
                      absl::FunctionRef<absl::Status()> launch) const;
  /// The caller has waited for as long as `wait` says.
  void Add(const TraceSpan& wait) const;

 private:
  StepTrace* trace_ = nullptr;
};

/// The time of its scope is what the caller waits: it is added to `*exposed_ns` and told to `tracer`.
class CallerWait {
 public:
  /// `call` lives for ever; of `bucket`, -1: of the whole step.
  CallerWait(const char* call, int64_t step, int bucket, const StepTracer& tracer, int64_t* exposed_ns);
  ~CallerWait();
  CallerWait(const CallerWait&) = delete;
  CallerWait& operator=(const CallerWait&) = delete;

 private:
  TraceSpan span_;
  const StepTracer& tracer_;
  int64_t* const exposed_ns_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_STEP_TRACER_H_
