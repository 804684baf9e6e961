#include "shardstep/comm/group_rendezvous.h"

#include <algorithm>
#include <utility>

namespace shardstep {

GroupRendezvous::GroupRendezvous(Rendezvous& parent, std::vector<int> members)
    : parent_(parent),
      members_(std::move(members)),
      rank_(static_cast<int>(std::find(members_.begin(), members_.end(), parent.rank()) - members_.begin())) {}

absl::StatusOr<std::vector<std::string>> GroupRendezvous::AllGatherBytes(absl::string_view what,
                                                                         absl::string_view bytes,
                                                                         absl::Duration deadline) {
  SHARDSTEP_ASSIGN_OR_RETURN(std::vector<std::string> all, parent_.AllGatherBytes(what, bytes, deadline));
  std::vector<std::string> mine;
  mine.reserve(members_.size());
  for (const int member : members_) mine.push_back(std::move(all[static_cast<size_t>(member)]));
  return mine;
}

}  // namespace shardstep
