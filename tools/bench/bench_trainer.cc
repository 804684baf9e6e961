#include "shardstep/tools/bench/bench_trainer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "shardstep/tools/bench/bench_model.h"

namespace shardstep {

absl::StatusOr<std::unique_ptr<BenchTrainer>> BenchTrainer::Create(const BenchOptions& options,
                                                                   CommunicatorLevels levels, Rendezvous& rendezvous,
                                                                   const EmulatedCompute& compute) {
  SHARDSTEP_ASSIGN_OR_RETURN(
      std::unique_ptr<ShardedOptimizer> optimizer,
      ShardedOptimizer::Create(options.optimizer, options.parameters, std::move(levels), &rendezvous));
  std::unique_ptr<BenchTrainer> trainer(new BenchTrainer(options, std::move(optimizer), compute));
  SHARDSTEP_RETURN_IF_ERROR(trainer->optimizer_->Initialize([](int p, int64_t begin, absl::Span<float> values) {
    for (size_t i = 0; i < values.size(); ++i) values[i] = BenchMaster(p, begin + static_cast<int64_t>(i));
  }));
  SHARDSTEP_RETURN_IF_ERROR(trainer->WriteGradients(rendezvous.rank()));
  return trainer;
}

BenchTrainer::BenchTrainer(const BenchOptions& options, std::unique_ptr<ShardedOptimizer> optimizer,
                           const EmulatedCompute& compute)
    : options_(options), optimizer_(std::move(optimizer)), compute_(compute) {
  const ShardLayout& layout = optimizer_->layout();
  for (int p = 0; p < layout.parameter_count(); ++p) {
    share_.push_back(static_cast<double>(layout.elements(p)) / static_cast<double>(layout.total_elements()));
  }
}

absl::Status BenchTrainer::WriteGradients(int rank) {
  for (int p = 0; p < optimizer_->layout().parameter_count(); ++p) {
    SHARDSTEP_RETURN_IF_ERROR(optimizer_->GradientWritable(p));
    const absl::Span<Bf16> gradient = optimizer_->gradient(p);
    for (size_t i = 0; i < gradient.size(); ++i) gradient[i] = BenchGradient(rank, p, static_cast<int64_t>(i));
  }
  return absl::OkStatus();
}

absl::Status BenchTrainer::TrainStep() {
  SHARDSTEP_RETURN_IF_ERROR(Forward());
  SHARDSTEP_RETURN_IF_ERROR(FinishStep());
  for (int64_t k = 0; k < options_.optimizer.micro_steps; ++k) {
    if (k > 0) SHARDSTEP_RETURN_IF_ERROR(Forward());
    SHARDSTEP_RETURN_IF_ERROR(Backward());
    SHARDSTEP_RETURN_IF_ERROR(optimizer_->EndMicroStep());
  }
  in_flight_ = true;
  return optimizer_->Step({.learning_rate = kBenchLearningRate, .max_norm = options_.max_norm});
}

void BenchTrainer::Compute() const {
  for (int64_t k = 0; k < options_.optimizer.micro_steps; ++k) {
    for (size_t p = 0; p < share_.size(); ++p) compute_.Burn(forward_ms(static_cast<int>(p)));
    for (size_t p = share_.size(); p-- > 0;) compute_.Burn(backward_ms(static_cast<int>(p)));
  }
}

absl::Status BenchTrainer::Forward() {
  for (int p = 0; p < optimizer_->layout().parameter_count(); ++p) {
    SHARDSTEP_RETURN_IF_ERROR(optimizer_->WeightsReady(p));
    compute_.Burn(forward_ms(p));
  }
  return absl::OkStatus();
}

absl::Status BenchTrainer::Backward() {
  for (int p = optimizer_->layout().parameter_count() - 1; p >= 0; --p) {
    SHARDSTEP_RETURN_IF_ERROR(optimizer_->GradientWritable(p));
    compute_.Burn(backward_ms(p));
    SHARDSTEP_RETURN_IF_ERROR(optimizer_->GradientReady(p));
  }
  return absl::OkStatus();
}

absl::Status BenchTrainer::Finish() {
  for (int p = 0; p < optimizer_->layout().parameter_count(); ++p) {
    SHARDSTEP_RETURN_IF_ERROR(optimizer_->WeightsReady(p));
  }
  return FinishStep();
}

absl::Status BenchTrainer::FinishStep() {
  if (!std::exchange(in_flight_, false)) return absl::OkStatus();
  SHARDSTEP_ASSIGN_OR_RETURN(const StepRecord record, optimizer_->FinishStep());
  waited_ms_ = static_cast<double>(record.exposed_ns) / 1e6;
  if (!record.applied) return absl::InternalError("a step of the benchmark was skipped, whose gradients are finite");
  return absl::OkStatus();
}

}  // namespace shardstep
