#ifndef SHARDSTEP_COMM_MPI_MPI_RENDEZVOUS_H_
#define SHARDSTEP_COMM_MPI_MPI_RENDEZVOUS_H_

#include <memory>
#include <string>
#include <vector>

#include "shardstep/comm/rendezvous.h"

namespace shardstep {

/// The rendezvous of ranks that mpirun started, on a duplicate of MPI_COMM_WORLD. Messages go point to point and are
/// polled, sleeping in between: never a blocking collective, whose absent ranks nobody could name. A rank that fails
/// tells the others, so that they need not wait for their own deadlines.
class MpiRendezvous : public Rendezvous {
 public:
  /// Collective. Initializes MPI unless the caller has, with MPI_THREAD_MULTIPLE if there is such; then the last one
  /// that is destroyed finalizes it, and no other can be created afterwards. FailedPrecondition after MPI_Finalize or
  /// when MPI is not thread safe enough; DeadlineExceeded names the ranks that did not arrive (those that never called
  /// MPI_Init at all are mpirun's business).
  static absl::StatusOr<std::unique_ptr<MpiRendezvous>> Create(absl::Duration deadline = absl::Minutes(1));

  /// Neither communicates nor waits after an error: MPI then is left without being finalized, and mpirun ends the
  /// other ranks when this process exits.
  ~MpiRendezvous() override;

  int rank() const override;
  int world_size() const override;
  absl::StatusOr<std::vector<std::string>> AllGatherBytes(absl::string_view what, absl::string_view bytes,
                                                          absl::Duration deadline) override;
  void Fail(const absl::Status& reason) override;

  /// For the sources of comm/mpi/.
  class Impl;
  explicit MpiRendezvous(std::unique_ptr<Impl> impl);
  Impl& impl() { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_MPI_MPI_RENDEZVOUS_H_
