#ifndef SHARDSTEP_TOOLS_BENCH_MPI_BASELINES_H_
#define SHARDSTEP_TOOLS_BENCH_MPI_BASELINES_H_

#include <cstdint>
#include <memory>

#include "absl/types/span.h"
#include "shardstep/comm/bf16.h"
#include "shardstep/comm/status.h"
#include "shardstep/tools/bench/allocator.h"
#include "shardstep/tools/bench/bench_options.h"

namespace shardstep {

/// The same step as an honest composition of plain MPI, as one would write it without this library: gradients and
/// weights of the whole model in one flat private buffer each, a shard of fp32 state, and the library's own update
/// kernel, so that only the movement of data differs.
///   mpi_fp32      gradients converted to fp32, MPI_Reduce_scatter_block in fp32, update, MPI_Allgather
///   mpi_bf16_op   MPI_Reduce_scatter_block of bf16 with an operation of its own (sums are rounded at every addition)
///   mpi_alltoall  MPI_Alltoall of bf16, fp32 sum and update in one pass, MPI_Allgather
///   mpi_p2p       both exchanges as MPI_Isend and MPI_Irecv of chunks, each chunk summed and updated as it arrives
/// With clipping, a pass over the summed shard and an MPI_Allreduce of its squared norm come before the update. A step
/// that is not finite is applied like any other.
///
/// Lives between MPI_Init and MPI_Finalize, and has MPI_COMM_WORLD to itself while it is in a call; an error of MPI
/// ends the job, as MPI does by default.
class MpiBaseline {
 public:
  /// What one call of a collective moves at most, of all ranks together.
  static constexpr int64_t kLargestPieceElements = int64_t{1} << 28;

  /// Collective. Allocates, fills (BenchMaster, BenchGradient) and touches everything. ResourceExhausted names what did
  /// not fit; InvalidArgument a mode that baselines do not have: several micro-steps, several groups, fp32 weights or
  /// gradients. Models of more than `largest_piece_elements` are cut; a chunk of mpi_p2p is at most a rank's part of
  /// it.
  static absl::StatusOr<std::unique_ptr<MpiBaseline>> Create(Baseline baseline, const BenchOptions& options,
                                                             int64_t largest_piece_elements = kLargestPieceElements);
  virtual ~MpiBaseline() = default;

  /// Collective. One step.
  virtual absl::Status Step() = 0;
  /// All weights, parameter after parameter without gaps.
  virtual absl::Span<const Bf16> weights() const = 0;

  /// Bytes that Create allocates, and that a step adds (MPI's own buffers included, an upper bound), on each rank.
  static int64_t EstimateBytes(Baseline baseline, const BenchOptions& options, int ranks);
};

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_MPI_BASELINES_H_
