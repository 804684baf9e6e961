// A trainer in C++, under mpirun or alone: minimizes the mean of (w - target)^2 / 2 over ranks that pull in different
// directions, and exits with 0 when the weights arrived and every rank has the same ones.
#include <algorithm>
#include <cmath>
#include <iostream>
#include <memory>
#include <utility>
#include <vector>

#include "shardstep/runtime/job.h"
#include "shardstep/runtime/sharded_optimizer.h"

namespace {

using namespace shardstep;  // NOLINT: a trainer's own choice

constexpr int kSteps = 300;

float Target(int p, int64_t i) { return static_cast<float>(p + 1) * 0.25f + static_cast<float>(i % 7) * 0.125f; }

absl::Status Backward(ShardedOptimizer& optimizer, int p) {
  SHARDSTEP_RETURN_IF_ERROR(optimizer.WeightsReady(p));
  SHARDSTEP_RETURN_IF_ERROR(optimizer.GradientWritable(p));
  // Sums to zero over ranks: only the mean of all gradients leads to the target.
  const float pull = static_cast<float>(2 * optimizer.rank() - optimizer.world_size() + 1);
  const auto weights = optimizer.weights(p);
  const auto gradient = optimizer.gradient(p);
  for (size_t i = 0; i < weights.size(); ++i) gradient[i] = ToBf16(ToFloat(weights[i]) - Target(p, i) + pull);
  return optimizer.GradientReady(p);
}

absl::Status Train() {
  OptimizerOptions options;
  options.groups[0].rule = AdamWOptions{.weight_decay = 0};
  const std::vector<ParameterSpec> parameters = {{.name = "matrix", .shape = {50, 90}},
                                                 {.name = "bias", .shape = {90}}};
  // The job outlives the optimizer.
  SHARDSTEP_ASSIGN_OR_RETURN(Job job, JoinJob({.meet = JobMeeting::kMpi}, options));
  SHARDSTEP_ASSIGN_OR_RETURN(auto optimizer, ShardedOptimizer::Create(options, parameters, std::move(job.communicators),
                                                                      job.rendezvous.get(), job.device.get()));
  SHARDSTEP_RETURN_IF_ERROR(optimizer->Initialize(
      [](int, int64_t, absl::Span<float> values) { std::fill(values.begin(), values.end(), 0.0f); }));
  for (int step = 0; step < kSteps; ++step) {
    SHARDSTEP_RETURN_IF_ERROR(Backward(*optimizer, 1));
    SHARDSTEP_RETURN_IF_ERROR(Backward(*optimizer, 0));
    SHARDSTEP_RETURN_IF_ERROR(optimizer->EndMicroStep());
    SHARDSTEP_RETURN_IF_ERROR(optimizer->Step({.learning_rate = 0.03 * (kSteps - step) / kSteps}));
    SHARDSTEP_RETURN_IF_ERROR(optimizer->FinishStep().status());
  }
  for (int p = 0; p < 2; ++p) {
    const auto weights = optimizer->weights(p);
    for (size_t i = 0; i < weights.size(); ++i) {
      if (std::abs(ToFloat(weights[i]) - Target(p, i)) > 0.02f) {
        return absl::InternalError(absl::StrCat("parameter ", p, ", element ", i, ": ", ToFloat(weights[i])));
      }
    }
  }
  // An error when the ranks' weights differ.
  SHARDSTEP_ASSIGN_OR_RETURN(const OptimizerDigests digests, optimizer->Digests());
  std::cout << "rank " << optimizer->rank() << " of " << optimizer->world_size() << ": weights "
            << digests.weights.ToHex() << std::endl;
  return absl::OkStatus();
}

}  // namespace

int main() {
  const absl::Status status = Train();
  if (!status.ok()) std::cerr << status << std::endl;
  return status.ok() ? 0 : 1;
}
