#ifndef SHARDSTEP_TOOLS_GPU_CHECK_GPU_CHECK_OPTIONS_H_
#define SHARDSTEP_TOOLS_GPU_CHECK_GPU_CHECK_OPTIONS_H_

#include <cstdint>
#include <string>

#include "absl/types/span.h"
#include "shardstep/tools/gpu_check/rank_training.h"

namespace shardstep::gpu_check {

enum class Command { kHelp, kHost, kKernels, kNccl, kStaged, kGraph, kAsync, kBench, kRank };

/// What the command line of shardstep_gpu_check says.
struct GpuCheckOptions {
  Command command = Command::kHelp;
  int device = 0;
  int64_t elements = 100'000'000;    ///< that kernels are compared on
  int64_t parameters = 500'000'000;  ///< of the benchmark
  int64_t decisions = 2000;          ///< likewise
  uint64_t seed = 1;
  int threads = 0;  ///< of the CPU's kernels; 0: one per core
  int ranks = 4;
  std::string nccl;  ///< path of the library; empty: as the loader finds it
  bool nccl_required = false;
  Training training;
  // Of a rank that this program starts.
  bool cuda = false;
  RankOptions rank;
};

/// `arguments` without the program's name: a command, then flags, --name=value. InvalidArgument names what is wrong.
absl::StatusOr<GpuCheckOptions> ParseGpuCheckOptions(absl::Span<const char* const> arguments);
/// The arguments with which this program starts a rank of its `staged` or `host` command.
std::vector<std::string> RankArguments(const GpuCheckOptions& options, const RankOptions& rank, bool cuda);

std::string GpuCheckHelp();
std::string_view Name(Command command);

}  // namespace shardstep::gpu_check

#endif  // SHARDSTEP_TOOLS_GPU_CHECK_GPU_CHECK_OPTIONS_H_
