#include "shardstep/tools/bench/bench_check.h"

#include <algorithm>
#include <utility>

#include "shardstep/tools/bench/bench_model.h"
#include "shardstep/tools/reference/reference_group.h"

namespace shardstep {
namespace {

absl::StatusOr<std::vector<int64_t>> ElementCounts(const std::vector<ParameterSpec>& parameters) {
  std::vector<int64_t> counts;
  for (const ParameterSpec& parameter : parameters) {
    SHARDSTEP_ASSIGN_OR_RETURN(counts.emplace_back(), ElementCount(parameter));
  }
  return counts;
}

shardstep_reference::Model InitialModel(const BenchOptions& options, const std::vector<int64_t>& counts) {
  shardstep_reference::Model model;
  for (size_t p = 0; p < counts.size(); ++p) {
    std::vector<float> master(counts[p]);
    for (int64_t i = 0; i < counts[p]; ++i) master[i] = BenchMaster(static_cast<int>(p), i);
    model.Add(ReferenceGroup(options.optimizer.groups[options.parameters[p].group]), std::move(master));
  }
  return model;
}

shardstep_reference::MicroBatch MicroBatchOf(int rank, const std::vector<int64_t>& counts) {
  shardstep_reference::MicroBatch micro_batch;
  for (size_t p = 0; p < counts.size(); ++p) {
    std::vector<uint16_t>& gradient = micro_batch.emplace_back(counts[p]);
    for (int64_t i = 0; i < counts[p]; ++i) gradient[i] = BenchGradient(rank, static_cast<int>(p), i).bits;
  }
  return micro_batch;
}

}  // namespace

int64_t ReferenceBytes(const BenchOptions& options, int ranks) {
  // Master, moments and weights of the model, the sums and weights that come out, a gradient of every rank.
  return ElementCount(options.parameters) * (4 + 8 + 2 + 4 + 2 + 2 * int64_t{ranks});
}

absl::StatusOr<std::vector<std::vector<Bf16>>> ReferenceWeights(const BenchOptions& options, int ranks, int64_t steps,
                                                                int hosts) {
  if (options.optimizer.accumulation == Accumulation::kLocal) {
    return absl::InvalidArgumentError("the reference does not know the bits of accumulation: LOCAL");
  }
  // One host alone sends nothing.
  const bool rounds = options.optimizer.host_sum == HostSum::kRounded && hosts > 1;
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<int64_t> counts, ElementCounts(options.parameters));
  shardstep_reference::Model model = InitialModel(options, counts);

  std::vector<shardstep_reference::MicroBatch> of_rank;
  for (int rank = 0; rank < ranks; ++rank) of_rank.push_back(MicroBatchOf(rank, counts));
  std::vector<const shardstep_reference::MicroBatch*> micro_batches;
  for (int64_t k = 0; k < options.optimizer.micro_steps; ++k) {
    for (const shardstep_reference::MicroBatch& micro_batch : of_rank) micro_batches.push_back(&micro_batch);
  }
  for (int64_t step = 0; step < steps; ++step) {
    model.Step(micro_batches, {.learning_rate = kBenchLearningRate,
                               .divisor = static_cast<double>(micro_batches.size()),
                               .max_norm = options.max_norm,
                               .sum_group = rounds ? ranks / hosts : options.optimizer.sum_group,
                               .round_groups = rounds,
                               .rounding_seed = options.optimizer.rounding_seed});
  }

  std::vector<std::vector<Bf16>> weights;
  for (const shardstep_reference::Parameter& parameter : model.parameters()) {
    std::vector<Bf16>& values = weights.emplace_back();
    values.reserve(parameter.weights.size());
    for (const uint16_t bits : parameter.weights) values.push_back({.bits = bits});
  }
  return weights;
}

int64_t CountWrong(const std::vector<std::vector<Bf16>>& expected,
                   const std::function<absl::Span<const Bf16>(int p)>& weights) {
  int64_t wrong = 0;
  for (size_t p = 0; p < expected.size(); ++p) {
    const absl::Span<const Bf16> actual = weights(static_cast<int>(p));
    for (size_t i = 0; i < expected[p].size(); ++i) {
      if (i >= actual.size() || actual[i].bits != expected[p][i].bits) ++wrong;
    }
  }
  return wrong;
}

}  // namespace shardstep
