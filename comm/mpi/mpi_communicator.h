#ifndef SHARDSTEP_COMM_MPI_MPI_COMMUNICATOR_H_
#define SHARDSTEP_COMM_MPI_MPI_COMMUNICATOR_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/levels.h"
#include "shardstep/comm/mpi/mpi_rendezvous.h"

namespace shardstep {

struct MpiCommunicatorOptions {
  /// Of every wait on other ranks. Positive.
  absl::Duration wait_deadline = absl::Seconds(60);
  /// Of every meeting inside Create and Allocate, where ranks wait while others touch their memory. Positive.
  absl::Duration setup_deadline = absl::Minutes(10);
  /// Longer messages are cut. At least 4096; MPI's int counts are never exceeded, whatever this is. Equal on all ranks.
  int64_t max_message_bytes = int64_t{256} << 20;
  /// Exchanges that may be under way before the first is released, at least 2. Equal on all ranks.
  int landing_buckets = 2;
  /// The failure of another level of the same job, polled: it ends this one. May be empty.
  std::function<absl::Status()> other_failure;
  /// Called once, from the progress thread, when this communicator fails or hears of an abort. May be empty.
  std::function<void(const absl::Status&)> on_failure;
  /// Called from the progress thread when another rank goes away or returns: some other rank is away for at most
  /// `duration` from now; zero: none is. May be empty.
  std::function<void(absl::Duration)> on_others_away;
};

/// Collective over all ranks of `rendezvous`. The communicator of `members`, ranks of the rendezvous, this one among
/// them, in the same order on each of them; every rank is a member of exactly one such list. Rank i of the communicator
/// is members[i]; messages name ranks of the rendezvous. Abort and SetAway reach all ranks of the rendezvous.
/// FailedPrecondition when MPI lacks MPI_THREAD_MULTIPLE, or names two ranks that disagree on members or options.
///
/// Non-blocking point to point only. A progress thread of this communicator makes its MPI calls and sleeps between two
/// looks: up to 0.2 ms while something is awaited, up to 1 ms otherwise. Every rank has its own weights unless Allocate
/// is given some. Own slices are the own gradients or contributions; others land in a ring of `landing_buckets` slots,
/// each for all that the other members may send of the largest bucket:
///   (members - 1) * shard bytes; with contributions, whose dtypes Allocate is not told, at most
///   (members - 1) * contributions * shard elements * 4, of which pages that are never used cost no memory.
/// In its turn on the stream an Exchange waits until its slot has been released.
///
/// An error of MPI fails the communicator with Internal and aborts the others. As news take their time, ranks that
/// abort at the same moment may each keep their own reason. AllReduceSmall is added up by members[0], which also tells
/// everyone who is missing; its deadline counts from the first arrival.
///
/// Streams must be HostStreams, else InvalidArgument. `rendezvous` must outlive the communicator, and the communicator
/// what is enqueued on streams. Destruction is not collective: it waits up to a second for messages under way, then
/// abandons them. Memory of the communicator that MPI may still touch then is never freed; where such memory is the
/// caller's (`weights`, contributions), MPI is left without being finalized, as after an error.
absl::StatusOr<std::unique_ptr<Communicator>> CreateMpiCommunicator(MpiRendezvous& rendezvous,
                                                                    const std::vector<int>& members,
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
