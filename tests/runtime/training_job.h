#ifndef SHARDSTEP_TESTS_RUNTIME_TRAINING_JOB_H_
#define SHARDSTEP_TESTS_RUNTIME_TRAINING_JOB_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "shardstep/runtime/sharded_optimizer.h"
#include "shardstep/tools/reference/reference_step.h"

namespace shardstep {

/// A training run whose gradients are a function of (step, micro-batch, parameter, element) and so the same at every
/// world size: what the sharded optimizer and the reference are both fed with.
struct TrainingJob {
  using Gradient = std::function<Bf16(int64_t step, int64_t micro_batch, int parameter, int64_t element)>;
  using WrapCommunicator = std::function<std::unique_ptr<Communicator>(std::unique_ptr<Communicator>, int rank)>;

  int world_size = 1;
  int64_t micro_batches = 12;
  int64_t steps = 5;
  std::optional<double> max_norm;
  OptimizerOptions options;
  std::vector<ParameterSpec> parameters = MixedParameters();
  Gradient gradient = MixedGradient;
  /// Called before each call: "WeightsReady(2) of micro-step 1".
  std::function<void(ShardedOptimizer& optimizer, const std::string& call)> before_call;
  std::function<void(ShardedOptimizer& optimizer, int64_t step)> before_step_call;  ///< before Step, after all else
  std::function<void(int rank)> before_gradient;  ///< called before each gradient is written
  WrapCommunicator wrap;                          ///< puts an adaptor around a rank's communicator
  uint64_t ready_order_seed = 0;  ///< not 0: every rank uses weights and marks gradients in another order
  bool finish_late = false;       ///< FinishStep comes after the forwards and backwards of the next step
  std::function<bool(int rank)> uses_no_weights;  ///< ranks whose gradients need none; empty: no rank
  /// Called for every parameter that a forward uses, once WeightsReady allows it.
  std::function<void(ShardedOptimizer& optimizer, int64_t step, int parameter)> forward;
  bool unused_last_parameter = false;
  /// Parameters that a micro-batch does not use, besides; empty: none.
  std::function<bool(int64_t step, int64_t micro_batch, int parameter)> unused;
  /// The host of each rank, all with equally many ranks; empty: one host. Hosts are joined by a double of a network.
  std::vector<int> host_of_rank;
  /// Called on every rank before step `step`, for changes between steps; and after the last one.
  std::function<void(ShardedOptimizer& optimizer, int64_t step)> before_step;
  std::function<void(ShardedOptimizer& optimizer)> after_steps;
  /// What the reference does with every parameter in step `step`; empty: as the options say.
  std::function<AdamWOptions(int64_t step)> reference_settings;
  /// Of parameters with fp32 gradients; empty: the bf16 ones.
  std::function<float(int64_t step, int64_t micro_batch, int parameter, int64_t element)> fp32_gradient;
  /// Where bf16 gradients are written; empty: the optimizer's.
  std::function<absl::Span<Bf16>(ShardedOptimizer& optimizer, int parameter)> gradient_memory;
  /// Brings a gradient, in host memory, to where the optimizer wants it, in stream order; empty: it is written there.
  std::function<void(ShardedOptimizer& optimizer, int parameter, absl::Span<const std::byte> gradient)> upload;
  std::function<float(int parameter, int64_t element)> initial_value = InitialValue;
  int64_t first_step = 0;  ///< its number; gradients and learning rates go by it

  static std::vector<ParameterSpec> MixedParameters();
  static Bf16 MixedGradient(int64_t step, int64_t micro_batch, int parameter, int64_t element);
  static float InitialValue(int parameter, int64_t element);

  /// One micro-step per `world_size` micro-batches, rounded up.
  int64_t micro_steps() const { return (micro_batches + world_size - 1) / world_size; }
};

/// What every rank ended with; equal over ranks, which RunTrainingJob checks.
struct TrainingResult {
  shardstep_reference::Digests digests;
  std::vector<StepRecord> records;
};

/// Runs the job on threads, in process.
TrainingResult RunTrainingJob(const TrainingJob& job);

/// Runs this rank's part of the job, by TrainRank if it is given instead of by Train. Collective.
using TrainRank = std::function<void(const TrainingJob& job, ShardedOptimizer& optimizer, std::vector<StepRecord>*)>;
TrainingResult RunRank(const TrainingJob& job, CommunicatorLevels levels, Rendezvous& rendezvous,
                       ComputeDevice* device = nullptr, const TrainRank& train = nullptr);

/// The communicators of a rank of the job. Collective.
CommunicatorLevels MakeLevels(const TrainingJob& job, Rendezvous& rendezvous);

/// Micro-step k of step `step`: forwards, backwards, its end.
void MicroStep(const TrainingJob& job, ShardedOptimizer& optimizer, int64_t step, int64_t k);
/// What Step is called with.
StepArguments ArgumentsOf(const TrainingJob& job, int64_t step);

/// Runs `steps` steps of the job on a rank that has an optimizer; appends the records.
void Train(const TrainingJob& job, ShardedOptimizer& optimizer, int64_t first_step, int64_t steps,
           std::vector<StepRecord>* records);

/// The same by the unsharded reference.
TrainingResult RunReference(const TrainingJob& job);

bool operator==(const TrainingResult& a, const TrainingResult& b);

}  // namespace shardstep

namespace shardstep_reference {
bool operator==(const Digests& a, const Digests& b);
std::ostream& operator<<(std::ostream& out, const Digests& digests);
}  // namespace shardstep_reference

#endif  // SHARDSTEP_TESTS_RUNTIME_TRAINING_JOB_H_
