#include "shardstep/tools/bench/mpi_world.h"

#include <mpi.h>

#include <chrono>

namespace shardstep {
namespace {

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

struct MpiWorld::Communicators {
  MPI_Comm all = MPI_COMM_NULL;
  MPI_Comm host = MPI_COMM_NULL;  // the ranks whose clock is ours
};

MpiWorld::MpiWorld() : communicators_(std::make_unique<Communicators>()) {
  MPI_Comm_dup(MPI_COMM_WORLD, &communicators_->all);
  MPI_Comm_split_type(communicators_->all, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &communicators_->host);
}

// Freeing a communicator is collective, and this rank may be the only one that has failed: MPI_Finalize does it.
MpiWorld::~MpiWorld() = default;

int MpiWorld::rank() const {
  int rank = 0;
  MPI_Comm_rank(communicators_->all, &rank);
  return rank;
}

int MpiWorld::world_size() const {
  int size = 0;
  MPI_Comm_size(communicators_->all, &size);
  return size;
}

int MpiWorld::host_ranks() const {
  int size = 0;
  MPI_Comm_size(communicators_->host, &size);
  return size;
}

void MpiWorld::Barrier() { MPI_Barrier(communicators_->all); }

double MpiWorld::Max(double mine) {
  MPI_Allreduce(MPI_IN_PLACE, &mine, 1, MPI_DOUBLE, MPI_MAX, communicators_->all);
  return mine;
}

int64_t MpiWorld::Sum(int64_t mine) {
  MPI_Allreduce(MPI_IN_PLACE, &mine, 1, MPI_INT64_T, MPI_SUM, communicators_->all);
  return mine;
}

absl::StatusOr<double> MpiWorld::Time(const std::function<absl::Status()>& work) {
  Barrier();
  int64_t begin_ns = NowNs();
  SHARDSTEP_RETURN_IF_ERROR(work());
  int64_t end_ns = NowNs();
  MPI_Allreduce(MPI_IN_PLACE, &begin_ns, 1, MPI_INT64_T, MPI_MIN, communicators_->host);
  MPI_Allreduce(MPI_IN_PLACE, &end_ns, 1, MPI_INT64_T, MPI_MAX, communicators_->host);
  return Max(static_cast<double>(end_ns - begin_ns) / 1e6);
}

}  // namespace shardstep
