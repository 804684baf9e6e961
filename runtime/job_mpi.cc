#include "shardstep/runtime/job_mpi.h"

#include <utility>

#include "shardstep/comm/mpi/mpi_communicator.h"
#include "shardstep/comm/mpi/mpi_rendezvous.h"

namespace shardstep {

absl::StatusOr<MpiMeeting> MeetByMpi(absl::Duration deadline) {
  SHARDSTEP_ASSIGN_OR_RETURN(std::unique_ptr<MpiRendezvous> rendezvous, MpiRendezvous::Create(deadline));
  MpiMeeting meeting;
  meeting.make_levels = [ranks = rendezvous.get()](const OptimizerOptions& options) {
    return CreateClusterCommunicators(*ranks, {.wait_deadline = options.wait_deadline,
                                               .max_message_bytes = options.max_message_bytes,
                                               .private_weights = options.weights == WeightCopies::kPrivate});
  };
  meeting.rendezvous = std::move(rendezvous);
  return meeting;
}

}  // namespace shardstep
