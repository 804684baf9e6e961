#ifndef SHARDSTEP_TOOLS_BENCH_MPI_PIPELINE_H_
#define SHARDSTEP_TOOLS_BENCH_MPI_PIPELINE_H_

#include <memory>
#include <optional>

#include "shardstep/comm/status.h"
#include "shardstep/tools/bench/flat_model.h"
#include "shardstep/tools/bench/mpi_baselines.h"

namespace shardstep {

/// kPointToPoint on `model`, which is one piece. `largest_chunk_elements`: a multiple of 1024; chunks may be shorter.
absl::StatusOr<std::unique_ptr<MpiBaseline>> CreateMpiPipeline(std::unique_ptr<FlatModel> model,
                                                               std::optional<double> max_norm,
                                                               int64_t largest_chunk_elements);

/// Besides the model, in Create and in steps.
int64_t EstimateMpiPipelineBytes(int64_t flat_elements, int ranks, bool clip);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_MPI_PIPELINE_H_
