#ifndef SHARDSTEP_TOOLS_BENCH_FLOOR_TWIN_H_
#define SHARDSTEP_TOOLS_BENCH_FLOOR_TWIN_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/worker_pool.h"
#include "shardstep/runtime/shard_buffers.h"
#include "shardstep/tools/bench/memory_streams.h"
#include "shardstep/tools/bench/step_cost.h"

namespace shardstep {

/// The floor of a step: moves the bytes that step_cost.h counts, through the step's own buffers, and computes nothing.
/// Masters and moments stay as they are; sums and weights become anything, until the next step writes them. Waits for
/// nobody. Slices of other hosts' ranks are stood in for by as many gradients of this host's.
class FloorTwin {
 public:
  /// `threads` as the step has.
  static absl::StatusOr<std::unique_ptr<FloorTwin>> Create(const StepCase& step, absl::Span<const ShardBuffers> buckets,
                                                           int threads);

  void Gradients();  ///< what comes before the decision
  void Update();     ///< what comes after it

  /// What this rank's calls move.
  int64_t gradient_bytes() const;
  int64_t update_bytes() const;

 private:
  struct Bucket {
    std::vector<ElementRange> ranges;
    MemoryStreams streams;
  };
  /// Everything that is to be gone through once.
  using Pass = std::vector<Bucket>;

  explicit FloorTwin(std::unique_ptr<WorkerPool> pool) : pool_(std::move(pool)) {}
  void Run(const Pass& pass);

  const std::unique_ptr<WorkerPool> pool_;
  std::vector<Pass> gradient_passes_;
  Pass update_pass_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_FLOOR_TWIN_H_
