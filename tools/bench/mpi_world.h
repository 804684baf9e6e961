#ifndef SHARDSTEP_TOOLS_BENCH_MPI_WORLD_H_
#define SHARDSTEP_TOOLS_BENCH_MPI_WORLD_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "shardstep/comm/status.h"

namespace shardstep {

/// All ranks of a benchmark that mpirun started, meeting as closely as MPI lets them; a rendezvous sleeps while it
/// waits. Lives between MPI_Init and MPI_Finalize. Collective calls, in the same order on every rank; an error of MPI
/// ends the job, as MPI does by default.
class MpiWorld {
 public:
  MpiWorld();
  ~MpiWorld();
  MpiWorld(const MpiWorld&) = delete;
  MpiWorld& operator=(const MpiWorld&) = delete;

  int rank() const;
  int world_size() const;
  int host_ranks() const;  ///< of this host
  void Barrier();
  double Max(double mine);
  int64_t Sum(int64_t mine);

  /// Runs `work` on every rank at the same time: the time from the first rank's start to the last one's end on a host,
  /// of the slowest host, in milliseconds. The first error of this rank.
  absl::StatusOr<double> Time(const std::function<absl::Status()>& work);

 private:
  struct Communicators;
  std::unique_ptr<Communicators> communicators_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_MPI_WORLD_H_
