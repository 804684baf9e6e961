#ifndef SHARDSTEP_TOOLS_TRACE_RANK_TRACE_H_
#define SHARDSTEP_TOOLS_TRACE_RANK_TRACE_H_

#include <set>
#include <string>

#include "absl/strings/string_view.h"
#include "shardstep/comm/status.h"
#include "shardstep/tools/trace/trace_events.h"

namespace shardstep {

/// The spans of one rank as bytes (proto/trace.proto), some 20 per span.
std::string EncodeRankTrace(const RankSpans& of_rank);

/// What `rank` has encoded. Names of spans lie in `*names`, which outlives them. Internal says what is wrong with it.
absl::StatusOr<RankSpans> DecodeRankTrace(int rank, absl::string_view bytes, std::set<std::string>* names);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_TRACE_RANK_TRACE_H_
