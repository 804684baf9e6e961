#ifndef SHARDSTEP_TOOLS_BENCH_BENCH_TRAINER_H_
#define SHARDSTEP_TOOLS_BENCH_BENCH_TRAINER_H_

#include <memory>

#include "shardstep/comm/levels.h"
#include "shardstep/comm/rendezvous.h"
#include "shardstep/comm/status.h"
#include "shardstep/runtime/sharded_optimizer.h"
#include "shardstep/tools/bench/bench_options.h"
#include "shardstep/tools/bench/emulated_compute.h"

namespace shardstep {

/// A trainer without a model: it makes the calls that a trainer makes, in its order, between emulated passes. Gradients
/// are written once, so that nothing but the step takes time. Collective calls.
class BenchTrainer {
 public:
  /// Makes, fills and touches everything. `compute` must outlive it.
  static absl::StatusOr<std::unique_ptr<BenchTrainer>> Create(const BenchOptions& options, CommunicatorLevels levels,
                                                              Rendezvous& rendezvous, const EmulatedCompute& compute);

  /// The forward pass waits for each parameter as it comes to it, the last step is finished, the backward pass marks
  /// one parameter after the other, last ones first; then Step is called and may go on behind what follows.
  absl::Status TrainStep();
  /// The passes of a TrainStep alone.
  void Compute() const;
  /// Until all weights of the last step are here and it is finished.
  absl::Status Finish();

  ShardedOptimizer& optimizer() { return *optimizer_; }
  int64_t steps() const { return optimizer_->counters().step; }
  /// What the caller waited for weights, gradients and the step, from one FinishStep to the last one.
  double waited_ms() const { return waited_ms_; }

 private:
  BenchTrainer(const BenchOptions& options, std::unique_ptr<ShardedOptimizer> optimizer,
               const EmulatedCompute& compute);
  absl::Status WriteGradients(int rank);
  absl::Status FinishStep();
  absl::Status Forward();
  absl::Status Backward();
  double forward_ms(int p) const { return backward_ms(p) / 2; }
  double backward_ms(int p) const { return options_.backward_ms * share_[p]; }

  const BenchOptions options_;
  const std::unique_ptr<ShardedOptimizer> optimizer_;
  const EmulatedCompute& compute_;
  std::vector<double> share_;  // of all elements, by parameter
  bool in_flight_ = false;
  double waited_ms_ = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_BENCH_TRAINER_H_
