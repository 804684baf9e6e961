#include "shardstep/tools/trace/trace_events.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace shardstep {
namespace {

constexpr absl::string_view kSeparator = ",\n";
constexpr StepStream kStreams[] = {StepStream::kCaller, StepStream::kExchange, StepStream::kUpdate};

const char* Name(StepStream stream) {
  switch (stream) {
    case StepStream::kCaller:
      return "caller";
    case StepStream::kExchange:
      return "exchange";
    case StepStream::kUpdate:
      return "update";
  }
  return "?";
}

// With its quotes; bytes that are no UTF-8 are replaced.
std::string JsonString(absl::string_view text) {
  return nlohmann::json(std::string(text)).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// The format counts in microseconds.
std::string ToUs(int64_t ns) { return absl::StrCat(ns / 1000, ".", absl::Dec(ns % 1000, absl::kZeroPad3)); }

/// Events of one rank. Numbers of processes and threads begin at 1, as 0 stands for an idle machine in some viewers,
/// and threads have numbers that no other rank's have.
class EventWriter {
 public:
  EventWriter(int rank, std::string* out) : rank_(rank), out_(out) {}

  void Process(absl::string_view name) {
    Metadata("process_name", "name", JsonString(name), 0);
    Metadata("process_sort_index", "sort_index", absl::StrCat(rank_), 0);
  }
  void Thread(StepStream stream) {
    const int tid = Tid(stream);
    Metadata("thread_name", "name", JsonString(Name(stream)), tid);
    Metadata("thread_sort_index", "sort_index", absl::StrCat(tid), tid);
  }
  void Slice(const TraceSpan& span) {
    // One without a length could not hold the end of an arrow.
    const int64_t duration_ns = std::max<int64_t>(1, span.end_ns - span.begin_ns);
    Begin("X", span, span.caller_waits ? "wait" : "operation", JsonString(span.name));
    absl::StrAppend(out_, ",\"dur\":", ToUs(duration_ns), ",\"args\":{\"step\":", span.step);
    if (span.bucket >= 0) absl::StrAppend(out_, ",\"bucket\":", span.bucket);
    if (span.micro_step >= 0) absl::StrAppend(out_, ",\"micro_step\":", span.micro_step);
    if (!span.caller_waits) {
      absl::StrAppend(out_, ",\"level\":\"", span.level == Level::kNetwork ? "network" : "host", "\"");
    }
    absl::StrAppend(out_, "}}", kSeparator);
  }
  /// `phase`: "s", "t" or "f".
  void Arrow(absl::string_view phase, int64_t number, const TraceSpan& span) {
    Begin(phase, span, "bucket", "\"gradients\"");
    absl::StrAppend(out_, ",\"id\":", number, ",\"bp\":\"e\"}", kSeparator);
  }
  void Remark(const TraceSpan& at, absl::string_view text) {
    Begin("i", at, "trace", JsonString(text));
    absl::StrAppend(out_, ",\"s\":\"p\"}", kSeparator);
  }

 private:
  int Tid(StepStream stream) const {
    return 1 + rank_ * static_cast<int>(std::size(kStreams)) + static_cast<int>(stream);
  }
  void Begin(absl::string_view phase, const TraceSpan& span, absl::string_view category, absl::string_view json_name) {
    absl::StrAppend(out_, "{\"ph\":\"", phase, "\",\"name\":", json_name, ",\"cat\":\"", category, "\"");
    absl::StrAppend(out_, ",\"pid\":", rank_ + 1, ",\"tid\":", Tid(span.stream), ",\"ts\":", ToUs(span.begin_ns));
  }
  void Metadata(absl::string_view what, absl::string_view field, absl::string_view json, int tid) {
    absl::StrAppend(out_, "{\"ph\":\"M\",\"name\":\"", what, "\",\"pid\":", rank_ + 1, ",\"tid\":", tid);
    absl::StrAppend(out_, ",\"args\":{\"", field, "\":", json, "}}", kSeparator);
  }

  const int rank_;
  std::string* const out_;
};

/// What becomes of one bucket's gradients in one step, in order of time.
struct BucketSpans {
  std::map<int64_t, std::vector<const TraceSpan*>> sums;  // by micro-step: Exchange, Reduce
  std::vector<const TraceSpan*> updates, publishes;
};

std::vector<BucketSpans> ByBucket(const std::vector<TraceSpan>& spans) {
  std::map<std::pair<int64_t, int>, BucketSpans> by_bucket;
  for (const TraceSpan& span : spans) {
    const absl::string_view name = span.name;
    if (span.bucket < 0 || span.caller_waits) continue;
    BucketSpans& bucket = by_bucket[{span.step, span.bucket}];
    if (name == ToString(StepOp::kExchange) || name == ToString(StepOp::kReduce)) {
      bucket.sums[span.micro_step].push_back(&span);
    } else if (name == ToString(StepOp::kUpdate)) {
      bucket.updates.push_back(&span);
    } else if (name == ToString(StepOp::kPublish)) {
      bucket.publishes.push_back(&span);
    }
  }
  std::vector<BucketSpans> result;
  for (auto& [key, bucket] : by_bucket) result.push_back(std::move(bucket));
  return result;
}

void DrawArrow(const std::vector<const TraceSpan*>& through, int64_t* arrows, EventWriter* writer) {
  if (through.size() < 2) return;
  const int64_t number = (*arrows)++;
  for (size_t i = 0; i < through.size(); ++i) {
    writer->Arrow(i == 0 ? "s" : (i + 1 < through.size() ? "t" : "f"), number, *through[i]);
  }
}

void DrawArrows(BucketSpans& bucket, int64_t* arrows, EventWriter* writer) {
  // Of one rank, updates are all that there is to publish.
  if (bucket.sums.empty()) bucket.sums[0] = {};
  const int64_t last = bucket.sums.rbegin()->first;
  for (auto& [micro_step, through] : bucket.sums) {
    through.insert(through.end(), bucket.updates.begin(), bucket.updates.end());
    if (micro_step == last) through.insert(through.end(), bucket.publishes.begin(), bucket.publishes.end());
    DrawArrow(through, arrows, writer);
  }
}

}  // namespace

std::string TraceEvents(const RankSpans& of_rank, int64_t* arrows) {
  std::string out;
  EventWriter writer(of_rank.rank, &out);
  writer.Process(absl::StrCat("rank ", of_rank.rank, " (", of_rank.host, ")"));
  for (const StepStream stream : kStreams) writer.Thread(stream);
  std::vector<TraceSpan> spans = of_rank.spans;
  std::sort(spans.begin(), spans.end(), [](const TraceSpan& a, const TraceSpan& b) { return a.begin_ns < b.begin_ns; });
  if (of_rank.dropped > 0 && !spans.empty()) {
    writer.Remark(spans.front(),
                  absl::StrCat(of_rank.dropped, " earlier spans of rank ", of_rank.rank, " were not kept"));
  }
  for (const TraceSpan& span : spans) writer.Slice(span);
  for (BucketSpans& bucket : ByBucket(spans)) DrawArrows(bucket, arrows, &writer);
  out.resize(out.size() - kSeparator.size());
  return out;
}

}  // namespace shardstep
