#ifndef SHARDSTEP_TOOLS_TRACE_TRACE_RECORDING_H_
#define SHARDSTEP_TOOLS_TRACE_TRACE_RECORDING_H_

#include <cstdint>
#include <vector>

#include "shardstep/comm/mutex.h"
#include "shardstep/runtime/step_trace.h"

namespace shardstep {

/// Keeps the latest spans of one rank, for WriteTrace (trace_file.h).
class TraceRecording : public StepTrace {
 public:
  static constexpr int64_t kUsualSpans = 1 << 17;

  /// Keeps at most `most_spans` >= 1, the latest; some 72 bytes each.
  explicit TraceRecording(int64_t most_spans = kUsualSpans) : most_spans_(most_spans) {}

  void Add(const TraceSpan& span) override;

  /// In the order in which they ended.
  std::vector<TraceSpan> spans() const;
  /// How many earlier ones were not kept.
  int64_t dropped() const;

 private:
  const int64_t most_spans_;
  mutable Mutex mutex_;
  std::vector<TraceSpan> spans_ ABSL_GUARDED_BY(mutex_);  // span number i at i % most_spans_
  int64_t count_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_TRACE_TRACE_RECORDING_H_
