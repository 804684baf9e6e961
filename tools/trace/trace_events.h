#ifndef SHARDSTEP_TOOLS_TRACE_TRACE_EVENTS_H_
#define SHARDSTEP_TOOLS_TRACE_TRACE_EVENTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "shardstep/runtime/step_trace.h"

namespace shardstep {

/// The spans of one rank, on the clock that all ranks share: since the earliest span.
struct RankSpans {
  int rank = 0;
  std::string host;
  int64_t dropped = 0;  ///< earlier ones that were not kept
  std::vector<TraceSpan> spans;
};

/// The spans as events of Chrome's trace format, one JSON object per line, with commas between them: the rank is
/// a process, its streams are threads. Arrows lead each bucket's gradients of one micro-step from Exchange to Reduce
/// and Update, those of the last one on to Publish; what is missing of them is left out. `*arrows` counts those of all
/// ranks, as they need numbers of their own.
std::string TraceEvents(const RankSpans& of_rank, int64_t* arrows);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_TRACE_TRACE_EVENTS_H_
