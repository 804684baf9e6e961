#include "shardstep/comm/rendezvous.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace shardstep {
namespace {

std::string Encode(const absl::Status& status) {
  return absl::StrCat(static_cast<int>(status.code()), ":", static_cast<int>(CauseOf(status)), ":", status.message());
}

absl::Status Decode(absl::string_view text, int rank) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, absl::MaxSplits(':', 2));
  int code = 0;
  int cause = 0;
  if (parts.size() != 3 || !absl::SimpleAtoi(parts[0], &code) || !absl::SimpleAtoi(parts[1], &cause)) {
    return absl::InternalError(absl::StrCat("rank ", rank, " sent no status: ", text));
  }
  const absl::Status status(static_cast<absl::StatusCode>(code), parts[2]);
  return Annotate(WithCause(status, static_cast<absl::StatusCode>(cause)), absl::StrCat("rank ", rank));
}

}  // namespace

absl::Status AgreeOnStatus(Rendezvous& rendezvous, absl::string_view what, const absl::Status& mine,
                           absl::Duration deadline) {
  Rendezvous& everyone = rendezvous.everyone();
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> all, everyone.AllGatherBytes(what, Encode(mine), deadline));
  for (int rank = 0; rank < everyone.world_size(); ++rank) {
    SHARDSTEP_RETURN_IF_ERROR(Decode(all[static_cast<size_t>(rank)], everyone.rank_name(rank)));
  }
  return absl::OkStatus();
}

}  // namespace shardstep
