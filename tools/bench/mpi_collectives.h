#ifndef SHARDSTEP_TOOLS_BENCH_MPI_COLLECTIVES_H_
#define SHARDSTEP_TOOLS_BENCH_MPI_COLLECTIVES_H_

#include <memory>
#include <optional>

#include "shardstep/comm/status.h"
#include "shardstep/tools/bench/flat_model.h"
#include "shardstep/tools/bench/mpi_baselines.h"

namespace shardstep {

/// kFp32, kBf16Op or kAllToAll on `model`, whose pieces are short enough for a call.
absl::StatusOr<std::unique_ptr<MpiBaseline>> CreateMpiCollectives(Baseline baseline, std::unique_ptr<FlatModel> model,
                                                                  std::optional<double> max_norm);

/// Besides the model, in Create and in steps.
int64_t EstimateMpiCollectivesBytes(Baseline baseline, int64_t flat_elements, int ranks);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_MPI_COLLECTIVES_H_
