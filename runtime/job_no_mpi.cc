#include "shardstep/runtime/job_mpi.h"

namespace shardstep {

absl::StatusOr<MpiMeeting> MeetByMpi(absl::Duration /*deadline*/) {
  return absl::UnimplementedError("meet: MPI, and this library was built without it (SHARDSTEP_WITH_MPI)");
}

}  // namespace shardstep
