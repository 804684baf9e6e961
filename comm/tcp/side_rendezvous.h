#ifndef SHARDSTEP_COMM_TCP_SIDE_RENDEZVOUS_H_
#define SHARDSTEP_COMM_TCP_SIDE_RENDEZVOUS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "shardstep/comm/rendezvous.h"

namespace shardstep {

struct SideRendezvousOptions {
  /// Of every meeting in `parent`, and of the connections. Positive.
  absl::Duration deadline = absl::Minutes(10);
  /// Where ranks of other hosts reach this one: a name or an address without a port. Empty: the name that the system
  /// has for it; or, when all members have the same host_id, its loopback network. Used of the first member only.
  std::string host_address;
  /// Equal for ranks of one host, whose loopback network they share; empty: DefaultHostId() (shm/host_id.h).
  std::string host_id;
};

/// Collective over `parent`. A rendezvous of `members`, ranks of `parent`, this one among them, in the same order on
/// each of them; every rank is a member of exactly one such list. Rank i of it is members[i]; messages call it what
/// `parent` calls that one. It stands beside `parent`: meetings in one do not wait for meetings in the other, they may
/// be made by other threads at any time, an error of one is none of the other, and either may go first. Unlike a
/// GroupRendezvous, which meets whenever its parent does.
///
/// It is a CreateTcpRendezvous: members[0] listens at a port that the system chooses and tells it, with a key, through
/// `parent`. Its destruction and what it promises are as there.
///
/// Ranks succeed or fail together, with the error of the lowest failing rank. InvalidArgument names the option, or what
/// is wrong with a rank's members; FailedPrecondition names two ranks that disagree on them; DeadlineExceeded those who
/// did not arrive, with the address where that was expected.
absl::StatusOr<std::unique_ptr<Rendezvous>> CreateSideRendezvous(Rendezvous& parent, const std::vector<int>& members,
                                                                 const SideRendezvousOptions& options);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_TCP_SIDE_RENDEZVOUS_H_
