#ifndef SHARDSTEP_COMM_SHM_SHARED_MEMORY_COMMUNICATOR_H_
#define SHARDSTEP_COMM_SHM_SHARED_MEMORY_COMMUNICATOR_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/rendezvous.h"

namespace shardstep {

struct SharedMemoryOptions {
  /// Of every wait on other ranks. Positive.
  absl::Duration wait_deadline = absl::Seconds(60);
  /// Of every meeting inside Create and Allocate, where ranks wait while others touch their memory. Positive.
  absl::Duration setup_deadline = absl::Minutes(10);
  /// Who shares memory with whom; empty: DefaultHostId(). All ranks must agree.
  std::string host_id;
  /// What messages call the ranks, where they are ranks of a larger job; empty: 0, 1, ... Equal on all ranks. (An
  /// error of one rank that the others are told of names it as the rendezvous does.)
  std::vector<int> rank_names;
};

/// Collective. The communicator of ranks that are processes of one host (memfd). FailedPrecondition names two ranks
/// that disagree on the host id or were built from different sources.
///
/// Both kinds: slices are the peers' own gradients, read where they lie. The weights exist once; or, private, once per
/// rank, and Destinations are the own copy and then the others' in ascending order. A page of a gradient arena costs
/// memory from its first use on, by any rank, for the sake of frozen parameters: the first backward pays what creation
/// would have paid (measured: as much, and later passes are equally fast). All other pages are there when Allocate
/// returns. Streams must be HostStreams,
/// else InvalidArgument. Neither joins hosts: contributions and weights that exist are refused.
///
/// `rendezvous` is used by Create and Allocate only and must live as long as the communicator; the communicator must
/// outlive what is enqueued on streams. Destruction is not collective: memory that peers still use stays.
absl::StatusOr<std::unique_ptr<Communicator>> CreateShmCommunicator(Rendezvous& rendezvous,
                                                                    const SharedMemoryOptions& options);

/// Collective. The same for ranks that are threads of one process (heap).
absl::StatusOr<std::unique_ptr<Communicator>> CreateInprocCommunicator(Rendezvous& rendezvous,
                                                                       const SharedMemoryOptions& options);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_SHM_SHARED_MEMORY_COMMUNICATOR_H_
