#include "shardstep/comm/tcp/side_rendezvous.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "shardstep/comm/shm/host_id.h"
#include "shardstep/comm/tcp/listening_place.h"
#include "shardstep/comm/tcp/listening_rendezvous.h"

namespace shardstep {
namespace {

constexpr absl::string_view kCreate = "CreateSideRendezvous";

/// What a rank brings to the first meeting.
struct Intent {
  std::string members;  ///< "0, 2"
  std::string host_id;
};

absl::Status CheckOptions(const SideRendezvousOptions& options) {
  if (options.deadline <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat("deadline: ", absl::FormatDuration(options.deadline), " is not positive"));
  }
  return CheckHostAddress(options.host_address);
}

absl::Status CheckMembers(const Rendezvous& parent, const std::vector<int>& members) {
  std::vector<int> sorted = members;
  std::sort(sorted.begin(), sorted.end());
  const auto wrong = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("members: ", absl::StrJoin(members, ", "), ": ", why));
  };
  if (!std::binary_search(sorted.begin(), sorted.end(), parent.rank())) return wrong("this rank is not among them");
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) return wrong("a rank is there twice");
  if (sorted.front() < 0 || sorted.back() >= parent.world_size()) {
    return wrong(absl::StrCat("not all are in 0..", parent.world_size() - 1));
  }
  return absl::OkStatus();
}

// Every rank has found itself among its own members, so lists that are equal for their members overlap with no other.
absl::Status CheckGroups(const Rendezvous& parent, const std::vector<Intent>& intents) {
  for (size_t rank = 0; rank < intents.size(); ++rank) {
    for (const absl::string_view text : absl::StrSplit(intents[rank].members, ", ")) {
      size_t member = 0;
      if (!absl::SimpleAtoi(text, &member) || member >= intents.size()) {
        return absl::InternalError(absl::StrCat("members: \"", intents[rank].members, "\""));
      }
      if (intents[member].members == intents[rank].members) continue;
      return absl::FailedPreconditionError(absl::StrCat(
          kCreate, ": rank ", parent.rank_name(static_cast<int>(rank)), " has members ", intents[rank].members,
          "; rank ", parent.rank_name(static_cast<int>(member)), " has members ", intents[member].members));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Intent>> ShareIntents(Rendezvous& parent, const std::vector<int>& members,
                                                 const SideRendezvousOptions& options) {
  const std::string host_id = options.host_id.empty() ? DefaultHostId() : options.host_id;
  SHARDSTEP_ASSIGN_OR_RETURN(
      const std::vector<std::string> all,
      parent.AllGatherBytes(absl::StrCat(kCreate, ": members"),
                            absl::StrCat(absl::StrJoin(members, ", "), "\n", host_id), options.deadline));
  std::vector<Intent> intents;
  for (const std::string& bytes : all) {
    std::pair<std::string, std::string> parts = absl::StrSplit(bytes, absl::MaxSplits('\n', 1));
    intents.push_back({.members = std::move(parts.first), .host_id = std::move(parts.second)});
  }
  return intents;
}

bool ShareHost(const std::vector<int>& members, const std::vector<Intent>& intents) {
  return std::all_of(members.begin(), members.end(), [&](int member) {
    return intents[static_cast<size_t>(member)].host_id == intents[static_cast<size_t>(members[0])].host_id;
  });
}

std::string HostToListenOn(const SideRendezvousOptions& options, bool share_host) {
  if (!options.host_address.empty()) return options.host_address;
  return share_host ? "127.0.0.1" : SystemHostName();
}

absl::StatusOr<ListeningPlace> SharePlace(Rendezvous& parent, int first_member,
                                          const absl::StatusOr<ListeningPlace>& mine, absl::Duration deadline) {
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(parent, absl::StrCat(kCreate, ": listening"), mine.status(), deadline));
  SHARDSTEP_ASSIGN_OR_RETURN(
      const std::vector<std::string> all,
      parent.AllGatherBytes(absl::StrCat(kCreate, ": address"), absl::StrCat(mine->key, " ", mine->address), deadline));
  const std::pair<std::string, std::string> parts =
      absl::StrSplit(all[static_cast<size_t>(first_member)], absl::MaxSplits(' ', 1));
  ListeningPlace place{.address = parts.second};
  if (!absl::SimpleAtoi(parts.first, &place.key)) return absl::InternalError("the key of a rendezvous did not come");
  return place;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Rendezvous>> CreateSideRendezvous(Rendezvous& parent, const std::vector<int>& members,
                                                                 const SideRendezvousOptions& options) {
  absl::Status valid = CheckOptions(options);
  const absl::Duration deadline = valid.ok() ? options.deadline : SideRendezvousOptions().deadline;
  if (valid.ok()) valid = CheckMembers(parent, members);
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(parent, kCreate, valid, deadline));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<Intent> intents, ShareIntents(parent, members, options));
  SHARDSTEP_RETURN_IF_ERROR(CheckGroups(parent, intents));

  Descriptor listener;
  absl::StatusOr<ListeningPlace> place = ListeningPlace();
  if (parent.rank() == members[0]) {
    place = ListenSomewhere(HostToListenOn(options, ShareHost(members, intents)), &listener);
  }
  SHARDSTEP_ASSIGN_OR_RETURN(place, SharePlace(parent, members[0], place, deadline));

  TcpRendezvousOptions tcp{
      .address = place->address, .world_size = static_cast<int>(members.size()), .deadline = deadline};
  tcp.rank = static_cast<int>(std::find(members.begin(), members.end(), parent.rank()) - members.begin());
  for (const int member : members) tcp.rank_names.push_back(parent.rank_name(member));
  absl::StatusOr<std::unique_ptr<Rendezvous>> side = CreateListeningRendezvous(tcp, place->key, std::move(listener));
  // Who could not connect comes here a deadline later than the others.
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(parent, absl::StrCat(kCreate, ": connected"), side.status(), 2 * deadline));
  return side;
}

}  // namespace shardstep
