#include "shardstep/tools/trace/trace_file.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <fstream>
#include <limits>
#include <optional>
#include <set>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "shardstep/tools/text_file.h"
#include "shardstep/tools/trace/rank_trace.h"
#include "shardstep/tools/trace/trace_events.h"

namespace shardstep {
namespace {

// A rank may come late from an evaluation, and the file may be large.
constexpr absl::Duration kMeetingDeadline = absl::Minutes(10);

template <typename Clock>
int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch()).count();
}

// What to add to this host's steady clock for its wall clock.
int64_t WallMinusSteadyNs() {
  constexpr int kTries = 32;
  int64_t narrowest_ns = std::numeric_limits<int64_t>::max();
  int64_t difference_ns = 0;
  // Between two readings the thread may lose its core; the shortest time between them is the best try.
  for (int i = 0; i < kTries; ++i) {
    const int64_t before_ns = NowNs<std::chrono::steady_clock>();
    const int64_t wall_ns = NowNs<std::chrono::system_clock>();
    const int64_t passed_ns = NowNs<std::chrono::steady_clock>() - before_ns;
    if (passed_ns >= narrowest_ns) continue;
    narrowest_ns = passed_ns;
    difference_ns = wall_ns - before_ns - passed_ns / 2;
  }
  return difference_ns;
}

std::string HostName() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? std::string(name.data()) : "unknown host";
}

// Collective. The earliest begin of any rank's spans, on the wall clock.
absl::StatusOr<int64_t> EarliestNs(Rendezvous& rendezvous, const std::vector<TraceSpan>& mine) {
  int64_t first_ns = std::numeric_limits<int64_t>::max();
  for (const TraceSpan& span : mine) first_ns = std::min(first_ns, span.begin_ns);
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> begins,
                             rendezvous.AllGatherBytes("begin of a trace", absl::StrCat(first_ns), kMeetingDeadline));
  for (const std::string& begin : begins) {
    int64_t begin_ns = 0;
    if (!absl::SimpleAtoi(begin, &begin_ns)) return absl::InternalError("the begin of a trace is no number");
    first_ns = std::min(first_ns, begin_ns);
  }
  return first_ns;
}

// The file as it grows. After an error it takes nothing more.
class TraceFile {
 public:
  explicit TraceFile(const std::string& path) : path_(path), file_(path, std::ios::binary | std::ios::trunc) {
    Write("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n");
  }

  const absl::Status& status() const { return status_; }

  void Add(int rank, absl::string_view encoded) {
    if (!status_.ok()) return;
    std::set<std::string> names;
    const absl::StatusOr<RankSpans> of_rank = DecodeRankTrace(rank, encoded, &names);
    status_ = of_rank.status();
    if (!status_.ok()) return;
    if (rank > 0) Write(",\n");
    Write(TraceEvents(*of_rank, &arrows_));
  }
  void Close() {
    Write("\n]}\n");
    if (!status_.ok()) return;
    errno = 0;
    file_.close();
    Check();
  }

 private:
  void Write(absl::string_view text) {
    if (!status_.ok()) return;
    errno = file_ ? 0 : errno;  // of opening it
    file_ << text;
    Check();
  }
  void Check() {
    if (!file_) status_ = Refusal(errno, absl::StrCat("writing ", path_));
  }

  const std::string path_;
  std::ofstream file_;
  int64_t arrows_ = 0;
  absl::Status status_;
};

}  // namespace

absl::Status WriteTrace(Rendezvous& rendezvous, const TraceRecording& recording, const std::string& file) {
  RankSpans mine{
      .rank = rendezvous.rank(), .host = HostName(), .dropped = recording.dropped(), .spans = recording.spans()};
  const int64_t to_wall_ns = WallMinusSteadyNs();
  for (TraceSpan& span : mine.spans) {
    span.begin_ns += to_wall_ns;
    span.end_ns += to_wall_ns;
  }
  SHARDSTEP_ASSIGN_OR_RETURN(const int64_t earliest_ns, EarliestNs(rendezvous, mine.spans));
  for (TraceSpan& span : mine.spans) {
    span.begin_ns -= earliest_ns;
    span.end_ns -= earliest_ns;
  }
  std::optional<TraceFile> trace;
  if (mine.rank == 0) trace.emplace(file);
  // One rank after the other, as everybody gets what anybody sends.
  for (int rank = 0; rank < rendezvous.world_size(); ++rank) {
    SHARDSTEP_ASSIGN_OR_RETURN(
        const std::vector<std::string> traces,
        rendezvous.AllGatherBytes(absl::StrCat("trace of rank ", rank),
                                  rank == mine.rank ? EncodeRankTrace(mine) : std::string(), kMeetingDeadline));
    if (trace) trace->Add(rank, traces[rank]);
  }
  if (trace) trace->Close();
  return AgreeOnStatus(rendezvous, "writing a trace", trace ? trace->status() : absl::OkStatus(), kMeetingDeadline);
}

}  // namespace shardstep
