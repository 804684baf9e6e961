#ifndef SHARDSTEP_RUNTIME_STEP_TRACE_H_
#define SHARDSTEP_RUNTIME_STEP_TRACE_H_

#include <cstdint>

#include "shardstep/runtime/step_plan.h"

namespace shardstep {

/// One operation of a step as it ran on this rank, or one wait of the caller. On one stream, spans do not overlap.
struct TraceSpan {
  const char* name = "";  ///< of the operation (ToString(StepOp)) or of the caller's call; lives for ever
  StepStream stream = StepStream::kCaller;
  Level level = Level::kHost;
  bool caller_waits = false;  ///< in the call of that name; else an operation
  int64_t step = 0;           ///< as its record says; of WeightsReady, FinishStep and Step the one waited for
  int bucket = -1;            ///< -1: of the whole step
  int64_t micro_step = -1;    ///< within the step; -1 from kContribute on
  int64_t begin_ns = 0;       ///< of std::chrono::steady_clock
  int64_t end_ns = 0;         ///< >= begin_ns
};

/// Who wants to know. Costs a reading of the clock and an item of a queue at each end of an operation, and nothing when
/// nobody does.
class StepTrace {
 public:
  virtual ~StepTrace() = default;
  /// From the caller's thread and those of the streams, at the same time. Operations that failed, or that never ran
  /// because others did, are not told of; waits of the caller only from a microsecond on.
  virtual void Add(const TraceSpan& span) = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_STEP_TRACE_H_
