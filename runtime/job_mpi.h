#ifndef SHARDSTEP_RUNTIME_JOB_MPI_H_
#define SHARDSTEP_RUNTIME_JOB_MPI_H_

/// For job.cc. Implemented by job_mpi.cc, or where there is no MPI by job_no_mpi.cc.

#include <functional>
#include <memory>

#include "absl/time/time.h"
#include "shardstep/comm/levels.h"
#include "shardstep/comm/rendezvous.h"
#include "shardstep/comm/status.h"
#include "shardstep/runtime/options.h"

namespace shardstep {

struct MpiMeeting {
  std::unique_ptr<Rendezvous> rendezvous;
  /// Collective. Between the memories of CPUs.
  std::function<absl::StatusOr<CommunicatorLevels>(const OptimizerOptions& options)> make_levels;
};

/// Collective over the ranks that mpirun started. Unimplemented without MPI.
absl::StatusOr<MpiMeeting> MeetByMpi(absl::Duration deadline);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_JOB_MPI_H_
