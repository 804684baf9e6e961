#include "shardstep/tools/bench/mpi_baselines.h"

#include <mpi.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "shardstep/optimizer/worker_pool.h"
#include "shardstep/tools/bench/flat_model.h"
#include "shardstep/tools/bench/mpi_collectives.h"
#include "shardstep/tools/bench/mpi_pipeline.h"

namespace shardstep {
namespace {

int RanksOfThisHost() {
  MPI_Comm host = MPI_COMM_NULL;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
  int ranks = 1;
  MPI_Comm_size(host, &ranks);
  MPI_Comm_free(&host);
  return ranks;
}

// As many as the optimizer has.
int UpdateThreads(const OptimizerOptions& options) { return KernelThreads(options.update_threads, RanksOfThisHost()); }

}  // namespace

absl::StatusOr<std::unique_ptr<MpiBaseline>> MpiBaseline::Create(Baseline baseline, const BenchOptions& options,
                                                                 int64_t largest_piece_elements) {
  const int threads = UpdateThreads(options.optimizer);
  int rank = 0;
  int ranks = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  if (baseline == Baseline::kPointToPoint) {
    SHARDSTEP_ASSIGN_OR_RETURN(auto model,
                               FlatModel::Create(options, rank, ranks, threads, std::numeric_limits<int64_t>::max()));
    return CreateMpiPipeline(std::move(model), options.max_norm,
                             FlatModel::LargestShard(largest_piece_elements, ranks));
  }
  SHARDSTEP_ASSIGN_OR_RETURN(auto model, FlatModel::Create(options, rank, ranks, threads, largest_piece_elements));
  return CreateMpiCollectives(baseline, std::move(model), options.max_norm);
}

int64_t MpiBaseline::EstimateBytes(Baseline baseline, const BenchOptions& options, int ranks) {
  const int64_t flat_elements = FlatModel::FlatElements(options, ranks);
  return FlatModel::EstimateBytes(options, ranks) +
         (baseline == Baseline::kPointToPoint
              ? EstimateMpiPipelineBytes(flat_elements, ranks, options.max_norm.has_value())
              : EstimateMpiCollectivesBytes(baseline, flat_elements, ranks));
}

}  // namespace shardstep
