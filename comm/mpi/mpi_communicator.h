#ifndef SHARDSTEP_COMM_MPI_MPI_COMMUNICATOR_H_
#define SHARDSTEP_COMM_MPI_MPI_COMMUNICATOR_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/levels.h"
#include "shardstep/comm/mpi/mpi_rendezvous.h"

namespace shardstep {

struct MpiCommunicatorOptions {
  /// Of every wait on other ranks. Positive.
  absl::Duration wait_deadline = absl::Seconds(60);
  /// Longer messages are cut. At least 4096; MPI's int counts are never exceeded, whatever this is.
  int64_t max_message_bytes = int64_t{256} << 20;
  /// Buckets that may land before the first is released, at least 2.
  int landing_buckets = 2;
  /// The failure of another level of the same job, polled: it ends this one. May be empty.
  std::function<absl::Status()> other_failure;
  /// Called once, from the progress thread, when this communicator fails or hears of an abort. May be empty.
  std::function<void(const absl::Status&)> on_failure;
};

/// Collective over all ranks of `rendezvous`. The communicator of `members`, ranks of the rendezvous in ascending
/// order, this one among them; every rank is a member of exactly one such list. Rank i of the communicator is
/// members[i]; messages name ranks of the rendezvous. Abort and SetAway reach all ranks of the rendezvous.
///
/// Non-blocking point to point only. A progress thread of this communicator makes its MPI calls and sleeps between two
/// looks when nothing moves. Slices land in a ring; every rank has its own weights unless Allocate is given some.
/// `rendezvous` must outlive the communicator, and the communicator what is enqueued on streams.
absl::StatusOr<std::unique_ptr<Communicator>> CreateMpiCommunicator(MpiRendezvous& rendezvous, std::vector<int> members,
                                                                    const MpiCommunicatorOptions& options);

struct ClusterOptions {
  absl::Duration wait_deadline = absl::Seconds(60);
  int64_t max_message_bytes = int64_t{256} << 20;
  /// Who shares memory with whom; empty: DefaultHostId().
  std::string host_id;
  /// Every rank has weights of its own. On several hosts that is one level over MPI.
  bool private_weights = false;
};

/// Collective. The levels of a job started by mpirun: shared memory on one host; shared memory within hosts and MPI
/// between them; MPI alone where no two ranks share a host, or hosts have different numbers of ranks.
absl::StatusOr<CommunicatorLevels> CreateClusterCommunicators(MpiRendezvous& rendezvous, const ClusterOptions& options);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_MPI_MPI_COMMUNICATOR_H_
