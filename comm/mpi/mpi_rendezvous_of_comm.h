#ifndef SHARDSTEP_COMM_MPI_MPI_RENDEZVOUS_OF_COMM_H_
#define SHARDSTEP_COMM_MPI_MPI_RENDEZVOUS_OF_COMM_H_

/// For programs that have MPI communicators of their own; it names MPI's types, unlike mpi_rendezvous.h.

#include <mpi.h>

#include <memory>

#include "absl/time/time.h"
#include "shardstep/comm/mpi/mpi_rendezvous.h"

namespace shardstep {

/// Collective over the ranks of `comm`, whose ranks are those of the rendezvous: a sub-communicator, ranks in another
/// order. Works on a duplicate; `comm` may be freed afterwards, and its error handler is as before. MPI must be
/// initialized, else FailedPrecondition, and is not finalized: the rendezvous must be gone before that. Errors as of
/// MpiRendezvous::Create. Until it returns, a message of tag 22359 on `comm` must not be received by others.
absl::StatusOr<std::unique_ptr<MpiRendezvous>> CreateMpiRendezvous(MPI_Comm comm,
                                                                   absl::Duration deadline = absl::Minutes(1));

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_MPI_MPI_RENDEZVOUS_OF_COMM_H_
