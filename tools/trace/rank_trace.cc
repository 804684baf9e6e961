#include "shardstep/tools/trace/rank_trace.h"

#include <algorithm>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shardstep/proto/trace.pb.h"

namespace shardstep {

std::string EncodeRankTrace(const RankSpans& of_rank) {
  proto::RankTrace message;
  message.set_host(of_rank.host);
  message.set_dropped(of_rank.dropped);
  std::map<absl::string_view, int> names;
  int64_t last_begin_ns = 0;
  for (const TraceSpan& span : of_rank.spans) {
    const auto [name, is_new] = names.emplace(span.name, message.names_size());
    if (is_new) message.add_names(span.name);
    message.add_name(name->second);
    message.add_stream(static_cast<uint32_t>(span.stream));
    message.add_level(static_cast<uint32_t>(span.level));
    message.add_caller_waits(span.caller_waits);
    message.add_step(span.step);
    message.add_bucket(span.bucket);
    message.add_micro_step(span.micro_step);
    message.add_begin_ns(span.begin_ns - last_begin_ns);
    message.add_duration_ns(span.end_ns - span.begin_ns);
    last_begin_ns = span.begin_ns;
  }
  return message.SerializeAsString();
}

absl::StatusOr<RankSpans> DecodeRankTrace(int rank, absl::string_view bytes, std::set<std::string>* names) {
  proto::RankTrace message;
  const auto wrong = [rank](absl::string_view what) {
    return absl::InternalError(absl::StrCat("the trace of rank ", rank, " ", what));
  };
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return wrong("is no message");
  const int count = message.name_size();
  for (const int column :
       {message.stream_size(), message.level_size(), message.caller_waits_size(), message.step_size(),
        message.bucket_size(), message.micro_step_size(), message.begin_ns_size(), message.duration_ns_size()}) {
    if (column != count) return wrong("has columns of different lengths");
  }
  std::vector<const char*> kept_names;
  for (const std::string& name : message.names()) kept_names.push_back(names->insert(name).first->c_str());
  RankSpans result{.rank = rank, .host = message.host(), .dropped = message.dropped()};
  int64_t begin_ns = 0;
  for (int i = 0; i < count; ++i) {
    if (message.name(i) >= kept_names.size() || message.stream(i) > static_cast<uint32_t>(StepStream::kUpdate) ||
        message.level(i) > static_cast<uint32_t>(Level::kNetwork)) {
      return wrong("names what there is not");
    }
    begin_ns += message.begin_ns(i);
    result.spans.push_back({.name = kept_names[message.name(i)],
                            .stream = static_cast<StepStream>(message.stream(i)),
                            .level = static_cast<Level>(message.level(i)),
                            .caller_waits = message.caller_waits(i),
                            .step = message.step(i),
                            .bucket = message.bucket(i),
                            .micro_step = message.micro_step(i),
                            .begin_ns = begin_ns,
                            .end_ns = begin_ns + static_cast<int64_t>(message.duration_ns(i))});
  }
  return result;
}

}  // namespace shardstep
