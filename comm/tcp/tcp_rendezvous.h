#ifndef SHARDSTEP_COMM_TCP_TCP_RENDEZVOUS_H_
#define SHARDSTEP_COMM_TCP_TCP_RENDEZVOUS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "shardstep/comm/rendezvous.h"

namespace shardstep {

struct TcpRendezvousOptions {
  /// "host:port" of rank 0, the same on every rank: a name, an IPv4 address, or an IPv6 address in brackets. Rank 0
  /// listens there; on all its networks unless the address is a loopback one.
  std::string address;
  int rank = 0;
  int world_size = 1;
  /// How long Create waits for the others. Positive.
  absl::Duration deadline = absl::Minutes(1);
  /// What messages call the ranks, where they are ranks of a larger job; empty: 0, 1, ... Equal on all ranks.
  std::vector<int> rank_names;
};

/// Collective. The rendezvous of processes that anything started (torchrun, ssh, a script), without MPI: every rank
/// talks to rank 0 only, where a thread passes on what each rank says, whatever that rank's own thread is doing. So
/// every rank knows who has arrived, and one that dies or fails is named on all ranks at once.
///
/// InvalidArgument names the option. DeadlineExceeded names the ranks that did not arrive. Unavailable: rank 0 cannot
/// listen at the address. FailedPrecondition: what listens there is no rank 0, or it refuses this rank and says why
/// (another world size, a rank that is there already). Whoever else connects is turned away and changes nothing; but
/// nothing is encrypted and nobody proves who they are: use it on a network that is yours.
///
/// A rank's bytes and `what` together are at most 1 GiB per meeting, else InvalidArgument. A rank that ends without
/// destroying its rendezvous has died: that ends all meetings as Fail does. After destruction, later meetings of others
/// end with Aborted "rank 2 has left". Rank 0's destructor waits for the others' ones, for at most 5 s and not after a
/// failure.
absl::StatusOr<std::unique_ptr<Rendezvous>> CreateTcpRendezvous(const TcpRendezvousOptions& options);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_TCP_TCP_RENDEZVOUS_H_
