#include "shardstep/comm/mpi/mpi_agreement.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_join.h"
#include "shardstep/comm/mpi/mpi_exchange.h"

namespace shardstep {
namespace {

absl::Status CheckOptions(const MpiCommunicatorOptions& options) {
  constexpr int64_t kLeastMessageBytes = 4096;
  for (const auto& [name, duration] :
       {std::pair("wait_deadline", options.wait_deadline), std::pair("setup_deadline", options.setup_deadline)}) {
    if (duration > absl::ZeroDuration()) continue;
    return absl::InvalidArgumentError(absl::StrCat(name, " = ", absl::FormatDuration(duration), " is not positive"));
  }
  if (options.max_message_bytes < kLeastMessageBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_message_bytes = ", options.max_message_bytes, " is below ", kLeastMessageBytes));
  }
  if (options.landing_buckets < 2) {
    return absl::InvalidArgumentError(absl::StrCat("landing_buckets = ", options.landing_buckets, " is below 2"));
  }
  return absl::OkStatus();
}

absl::Status CheckMembers(const std::vector<int>& members, int rank, int world_size) {
  std::vector<int> sorted = members;
  std::sort(sorted.begin(), sorted.end());
  const bool distinct = std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end();
  const bool in_range = !sorted.empty() && sorted.front() >= 0 && sorted.back() < world_size;
  if (distinct && in_range && std::binary_search(sorted.begin(), sorted.end(), rank)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("members = ", absl::StrJoin(members, ", "), ": not distinct ranks of ",
                                                 world_size, ", this one among them"));
}

absl::Status CheckThreadLevel() {
  int provided = 0;
  SHARDSTEP_RETURN_IF_ERROR(MpiStatus(MPI_Query_thread(&provided), "MPI_Query_thread"));
  if (provided >= MPI_THREAD_MULTIPLE) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "MPI was initialized without MPI_THREAD_MULTIPLE, which communicators over MPI need");
}

// FailedPrecondition on every rank unless all members passed the same `mine`.
absl::Status CompareAmong(const std::vector<int>& members, Rendezvous& rendezvous, const std::string& mine,
                          absl::Duration deadline) {
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                             rendezvous.AllGatherBytes("CreateMpiCommunicator: members and options", mine, deadline));
  absl::Status equal;
  for (const int member : members) {
    if (!equal.ok() || all[static_cast<size_t>(member)] == mine) continue;
    equal = absl::FailedPreconditionError(absl::StrCat("rank ", rendezvous.rank(), " has ", mine, "; rank ", member,
                                                       " has ", all[static_cast<size_t>(member)]));
  }
  return AgreeOnStatus(rendezvous, "CreateMpiCommunicator: equal members and options", equal, deadline);
}

}  // namespace

absl::Status AgreeOnMembers(Rendezvous& rendezvous, const std::vector<int>& members,
                            const MpiCommunicatorOptions& options) {
  absl::Status valid = CheckOptions(options);
  const absl::Duration deadline = valid.ok() ? options.setup_deadline : MpiCommunicatorOptions().setup_deadline;
  if (valid.ok()) valid = CheckMembers(members, rendezvous.rank(), rendezvous.world_size());
  if (valid.ok()) valid = CheckThreadLevel();
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(rendezvous, "CreateMpiCommunicator", valid, deadline));
  const std::string mine =
      absl::StrCat("members = ", absl::StrJoin(members, ", "), ", max_message_bytes = ", options.max_message_bytes,
                   ", landing_buckets = ", options.landing_buckets);
  return CompareAmong(members, rendezvous, mine, deadline);
}

}  // namespace shardstep
