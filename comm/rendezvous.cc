#include "shardstep/comm/rendezvous.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace shardstep {
namespace {

std::string Encode(const absl::Status& status) {
  return absl::StrCat(static_cast<int>(status.code()), ":", status.message());
}

absl::Status Decode(absl::string_view text, int rank) {
  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(text, absl::MaxSplits(':', 1));
  int code = 0;
  if (!absl::SimpleAtoi(parts.first, &code)) {
    return absl::InternalError(absl::StrCat("rank ", rank, " sent no status: ", text));
  }
  return Annotate(absl::Status(static_cast<absl::StatusCode>(code), parts.second), absl::StrCat("rank ", rank));
}

}  // namespace

absl::Status AgreeOnStatus(Rendezvous& rendezvous, absl::string_view what, const absl::Status& mine,
                           absl::Duration deadline) {
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                             rendezvous.AllGatherBytes(what, Encode(mine), deadline));
  for (int rank = 0; rank < rendezvous.world_size(); ++rank) {
    SHARDSTEP_RETURN_IF_ERROR(Decode(all[static_cast<size_t>(rank)], rank));
  }
  return absl::OkStatus();
}

}  // namespace shardstep
