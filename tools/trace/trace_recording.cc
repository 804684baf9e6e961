#include "shardstep/tools/trace/trace_recording.h"

#include <algorithm>

namespace shardstep {

void TraceRecording::Add(const TraceSpan& span) {
  const MutexLock lock(&mutex_);
  if (count_ < most_spans_) {
    spans_.push_back(span);
  } else {
    spans_[count_ % most_spans_] = span;
  }
  ++count_;
}

std::vector<TraceSpan> TraceRecording::spans() const {
  const MutexLock lock(&mutex_);
  std::vector<TraceSpan> result = spans_;
  if (count_ > most_spans_) std::rotate(result.begin(), result.begin() + count_ % most_spans_, result.end());
  return result;
}

int64_t TraceRecording::dropped() const {
  const MutexLock lock(&mutex_);
  return count_ - static_cast<int64_t>(spans_.size());
}

}  // namespace shardstep
