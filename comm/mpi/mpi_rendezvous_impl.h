#ifndef SHARDSTEP_COMM_MPI_MPI_RENDEZVOUS_IMPL_H_
#define SHARDSTEP_COMM_MPI_MPI_RENDEZVOUS_IMPL_H_

/// For the sources of comm/mpi/ only: this header names MPI's types.

#include <mpi.h>

#include <string>
#include <vector>

#include "shardstep/comm/mpi/mpi_exchange.h"
#include "shardstep/comm/mpi/mpi_rendezvous.h"

namespace shardstep {

class MpiRendezvous::Impl {
 public:
  /// Takes `comm`, a duplicate whose errors are returned. `finalize`: MPI, if it is the last one.
  Impl(MPI_Comm comm, bool finalize);
  ~Impl();
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  MPI_Comm comm() const { return comm_; }
  int rank() const { return rank_; }
  int world_size() const { return world_size_; }

  absl::StatusOr<std::vector<std::string>> Gather(absl::string_view what, absl::string_view bytes,
                                                  absl::Duration deadline);
  void Fail(const absl::Status& reason);

  /// The first of `count` tags of comm() that nobody else has; never given back. Equal on every rank when all ranks
  /// make the same calls. ResourceExhausted when MPI has no more.
  absl::StatusOr<int> TakeTags(int count);

  /// MPI may still touch memory that will be gone: it must not be finalized, nor called more than needed.
  void LeaveUnfinalized() { leave_unfinalized_ = true; }

 private:
  void Listen();

  MPI_Comm comm_;
  const bool finalize_;
  int rank_ = 0;
  int world_size_ = 0;
  uint64_t round_ = 0;
  int next_tag_;
  absl::Status failure_;
  bool all_are_told_ = false;  ///< of a failure that ends everything, by this rank or by another
  bool leave_unfinalized_ = false;
};

/// The rendezvous of the ranks of `comm`, on a duplicate of it. Collective over its ranks. MPI is initialized.
absl::StatusOr<std::unique_ptr<MpiRendezvous>> MeetOnDuplicate(MPI_Comm comm, absl::string_view caller, bool finalize,
                                                               absl::Duration deadline);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_MPI_MPI_RENDEZVOUS_IMPL_H_
