#ifndef SHARDSTEP_TOOLS_BENCH_CUDA_TRAINER_H_
#define SHARDSTEP_TOOLS_BENCH_CUDA_TRAINER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "shardstep/comm/levels.h"
#include "shardstep/comm/rendezvous.h"
#include "shardstep/runtime/sharded_optimizer.h"
#include "shardstep/tools/bench/bench_options.h"
#include "shardstep/tools/bench/cuda_place.h"

namespace shardstep {

/// A trainer without a model on a GPU: it makes the calls that a trainer makes, in its order. Gradients lie in device
/// memory from the start, so that nothing but the step takes time; a step may be one launch of a CUDA graph. Collective
/// calls.
class CudaTrainer {
 public:
  /// Makes and fills everything. `rendezvous` and `place` outlive it.
  static absl::StatusOr<std::unique_ptr<CudaTrainer>> Create(const BenchOptions& options, CommunicatorLevels levels,
                                                             Rendezvous& rendezvous, CudaPlace& place);
  ~CudaTrainer();
  CudaTrainer(const CudaTrainer&) = delete;
  CudaTrainer& operator=(const CudaTrainer&) = delete;

  /// From now on steps are launches of one graph; between steps. Unimplemented where communicators do not allow it.
  absl::Status Capture();
  /// All of a step, until the weights of every parameter are there for what is enqueued on the compute stream next.
  absl::Status EnqueueStep();
  /// Blocks until that is done.
  absl::Status Finish();
  /// Calls of CUDA in all EnqueueSteps so far that block the host, or may, by name.
  const std::map<std::string, int64_t>& blocking_calls() const { return blocking_calls_; }

  ShardedOptimizer& optimizer() { return *optimizer_; }
  int64_t steps() const { return optimizer_->counters().step; }

 private:
  CudaTrainer(const BenchOptions& options, std::unique_ptr<ShardedOptimizer> optimizer, CudaPlace& place)
      : options_(options), place_(place), optimizer_(std::move(optimizer)) {}
  absl::Status WriteGradients();
  StepArguments arguments() const;
  /// From GradientWritable to Step.
  absl::Status CallStep();
  absl::Status EnqueueCounted();

  const BenchOptions options_;
  CudaPlace& place_;
  const std::unique_ptr<ShardedOptimizer> optimizer_;
  CudaGraphHandle graph_ = nullptr;
  std::map<std::string, int64_t> blocking_calls_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_CUDA_TRAINER_H_
