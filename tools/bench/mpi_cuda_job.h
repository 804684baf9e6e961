#ifndef SHARDSTEP_TOOLS_BENCH_MPI_CUDA_JOB_H_
#define SHARDSTEP_TOOLS_BENCH_MPI_CUDA_JOB_H_

#include <memory>

#include "shardstep/comm/mpi/mpi_rendezvous.h"
#include "shardstep/tools/bench/cuda_place.h"

namespace shardstep {

/// The CudaBenchJob of ranks that mpirun started, with this machine's NCCL.
class MpiCudaJob {
 public:
  /// Collective. `rendezvous` outlives it, and it everything that is made for its job. NotFound, FailedPrecondition:
  /// the NCCL that options need cannot be used; a rank alone needs none unless a file is named.
  static absl::StatusOr<std::unique_ptr<MpiCudaJob>> Create(const BenchOptions& options, const CudaBackend& backend,
                                                            MpiRendezvous& rendezvous);
  const CudaBenchJob& job() const { return job_; }

 private:
  MpiCudaJob() = default;

  std::unique_ptr<NcclApi> nccl_;
  CudaBenchJob job_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_MPI_CUDA_JOB_H_
