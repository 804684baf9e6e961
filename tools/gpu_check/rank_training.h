#ifndef SHARDSTEP_TOOLS_GPU_CHECK_RANK_TRAINING_H_
#define SHARDSTEP_TOOLS_GPU_CHECK_RANK_TRAINING_H_

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "shardstep/tools/gpu_check/gpu_trainer.h"

namespace shardstep::gpu_check {

/// A GPU that may be used.
struct Gpu {
  CudaBackend backend;
  CudaDeviceRef device;
};

/// Collective: this rank's part of a Training through the shared memory of the host; with a GPU, which ranks may share,
/// staged. The digests, or what went wrong; on a GPU also when a step makes calls that may block the host.
absl::StatusOr<std::string> TrainRank(const Training& training, Rendezvous& rendezvous,
                                      std::unique_ptr<Communicator> inner, const std::optional<Gpu>& gpu);

/// Collective: the same as a process of its own, which meets the others at `address` (comm/tcp).
struct RankOptions {
  int rank = 0;
  int world_size = 1;
  std::string address;
};
absl::StatusOr<std::string> TrainRankProcess(const Training& training, const RankOptions& options,
                                             const std::optional<Gpu>& gpu);

/// Runs the ranks of a job of `world_size` ranks, on the CPUs or sharing a GPU, and returns the digests of each.
using RunRanks = std::function<absl::StatusOr<std::vector<std::string>>(int world_size, bool cuda)>;
/// That the digests of jobs of 1 to `most_ranks` ranks are all the same, on CPUs and, if asked for, on a GPU.
absl::StatusOr<std::string> CheckRanks(const RunRanks& run, int most_ranks, bool cuda);

}  // namespace shardstep::gpu_check

#endif  // SHARDSTEP_TOOLS_GPU_CHECK_RANK_TRAINING_H_
