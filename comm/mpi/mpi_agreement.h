#ifndef SHARDSTEP_COMM_MPI_MPI_AGREEMENT_H_
#define SHARDSTEP_COMM_MPI_MPI_AGREEMENT_H_

#include <vector>

#include "shardstep/comm/mpi/mpi_communicator.h"

namespace shardstep {

/// Collective over all ranks of `rendezvous`: what CreateMpiCommunicator demands of its arguments and of MPI, the same
/// error on every rank. OK: the lists of all ranks are disjoint or the same, and so are the options of each list.
absl::Status AgreeOnMembers(Rendezvous& rendezvous, const std::vector<int>& members,
                            const MpiCommunicatorOptions& options);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_MPI_MPI_AGREEMENT_H_
