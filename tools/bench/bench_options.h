#ifndef SHARDSTEP_TOOLS_BENCH_BENCH_OPTIONS_H_
#define SHARDSTEP_TOOLS_BENCH_BENCH_OPTIONS_H_

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/comm/nccl/nccl_communicator.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/runtime/options.h"

namespace shardstep {

/// What other programs would do in the step's place; tools/bench/mpi_baselines.h.
enum class Baseline { kFp32, kBf16Op, kAllToAll, kPointToPoint };
inline constexpr Baseline kAllBaselines[] = {Baseline::kFp32, Baseline::kBf16Op, Baseline::kAllToAll,
                                             Baseline::kPointToPoint};
/// "mpi_fp32", ...
absl::string_view ToString(Baseline baseline);

/// How GPUs reach each other: comm/nccl, or comm/staged.
enum class GpuTransport { kNccl, kStaged };
/// "nccl", "staged"; "exact", "nccl_reduce_scatter".
absl::string_view ToString(GpuTransport transport);
absl::string_view ToString(NcclExchange exchange);

/// What only --device=cuda asks for.
struct GpuOptions {
  std::optional<int> ordinal;  ///< unset: by the rank's place on its host
  GpuTransport transport = GpuTransport::kNccl;
  NcclExchange exchange = NcclExchange::kExact;
  std::string nccl_library;  ///< empty: as the loader finds it
  bool graph = false;        ///< steps are launches of one CUDA graph
};

/// What the command line of shardstep_bench says.
struct BenchOptions {
  std::string model = "gpt2-124m";
  std::vector<ParameterSpec> parameters;  ///< of the model
  OptimizerOptions optimizer;             ///< one group
  std::optional<double> max_norm = 1.0;   ///< --clip
  double backward_ms = 0;                 ///< of one micro-step; a forward pass takes half of it
  int64_t steps = 7;
  int64_t warmup = 2;
  bool check = false;
  bool cuda = false;  ///< --device=cuda
  GpuOptions gpu;
  std::vector<Baseline> baselines;
  bool kernels = false;    ///< each kernel alone, instead of a step
  std::string json_file;   ///< empty: none
  std::string trace_file;  ///< empty: none
  double max_floor_ratio = std::numeric_limits<double>::infinity();
  bool help = false;
};

/// `arguments` without the program's name; flags read --name=value or --name value. InvalidArgument names the flag:
/// unknown, without a value, given twice, or of no use on the device that was chosen.
absl::StatusOr<BenchOptions> ParseBenchOptions(absl::Span<const char* const> arguments);

std::string BenchHelp();

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_BENCH_OPTIONS_H_
