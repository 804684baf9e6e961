#ifndef SHARDSTEP_TOOLS_GPU_CHECK_RANK_PROCESSES_H_
#define SHARDSTEP_TOOLS_GPU_CHECK_RANK_PROCESSES_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "shardstep/comm/status.h"

namespace shardstep::gpu_check {

/// "127.0.0.1:PORT", with a port that was free a moment ago.
absl::StatusOr<std::string> FreeLoopbackAddress();

/// Runs `program` once per rank, with the arguments that `arguments` gives, and returns what each wrote to its standard
/// output, without white space at its end; their standard error is this process's. An error names the lowest rank that
/// failed, its exit code or signal, and the last line that it wrote, or those that did not end within `deadline`, all
/// of which are killed.
absl::StatusOr<std::vector<std::string>> RunRankProcesses(
    const std::string& program, int ranks, const std::function<std::vector<std::string>(int rank)>& arguments,
    absl::Duration deadline);

}  // namespace shardstep::gpu_check

#endif  // SHARDSTEP_TOOLS_GPU_CHECK_RANK_PROCESSES_H_
