#ifndef SHARDSTEP_TOOLS_BENCH_BENCH_OPTIONS_H_
#define SHARDSTEP_TOOLS_BENCH_BENCH_OPTIONS_H_

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
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
  std::vector<Baseline> baselines;
  bool kernels = false;    ///< each kernel alone, instead of a step
  std::string json_file;   ///< empty: none
  std::string trace_file;  ///< empty: none
  double max_floor_ratio = std::numeric_limits<double>::infinity();
  bool help = false;
};

/// `arguments` without the program's name; flags read --name=value or --name value. InvalidArgument names the flag:
/// unknown, without a value, given twice.
absl::StatusOr<BenchOptions> ParseBenchOptions(absl::Span<const char* const> arguments);

std::string BenchHelp();

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_BENCH_OPTIONS_H_
