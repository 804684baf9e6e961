#include "shardstep/tools/bench/cuda_trainer.h"

#include <utility>
#include <vector>

#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/tools/bench/bench_model.h"

namespace shardstep {
namespace {

// Making an event is counted for what it allocates; it waits for nothing.
bool Blocks(absl::string_view call) { return call != "EventCreate" && call != "EventDestroy"; }

}  // namespace

absl::StatusOr<std::unique_ptr<CudaTrainer>> CudaTrainer::Create(const BenchOptions& options, CommunicatorLevels levels,
                                                                 Rendezvous& rendezvous, CudaPlace& place) {
  SHARDSTEP_ASSIGN_OR_RETURN(
      std::unique_ptr<ShardedOptimizer> optimizer,
      ShardedOptimizer::Create(options.optimizer, options.parameters, std::move(levels), &rendezvous, &place.device()));
  std::unique_ptr<CudaTrainer> trainer(new CudaTrainer(options, std::move(optimizer), place));
  SHARDSTEP_RETURN_IF_ERROR(trainer->optimizer_->Initialize([](int p, int64_t begin, absl::Span<float> values) {
    for (size_t i = 0; i < values.size(); ++i) values[i] = BenchMaster(p, begin + static_cast<int64_t>(i));
  }));
  SHARDSTEP_RETURN_IF_ERROR(trainer->WriteGradients());
  return trainer;
}

CudaTrainer::~CudaTrainer() {
  if (graph_ != nullptr) place_.api().GraphDestroy(graph_);
}

absl::Status CudaTrainer::WriteGradients() {
  std::vector<Bf16> values;
  for (int p = 0; p < optimizer_->layout().parameter_count(); ++p) {
    const absl::Span<Bf16> gradient = optimizer_->gradient(p);
    values.clear();
    for (size_t i = 0; i < gradient.size(); ++i) {
      values.push_back(BenchGradient(optimizer_->rank(), p, static_cast<int64_t>(i)));
    }
    SHARDSTEP_RETURN_IF_ERROR(
        place_.memory().Write(values.data(), gradient.data(), static_cast<int64_t>(values.size() * sizeof(Bf16))));
  }
  return absl::OkStatus();
}

StepArguments CudaTrainer::arguments() const {
  return {.learning_rate = kBenchLearningRate, .max_norm = options_.max_norm};
}

absl::Status CudaTrainer::CallStep() {
  for (int64_t k = 0; k < options_.optimizer.micro_steps; ++k) {
    for (int p = optimizer_->layout().parameter_count() - 1; p >= 0; --p) {
      SHARDSTEP_RETURN_IF_ERROR(optimizer_->GradientWritable(p));
      SHARDSTEP_RETURN_IF_ERROR(optimizer_->GradientReady(p));
    }
    SHARDSTEP_RETURN_IF_ERROR(optimizer_->EndMicroStep());
  }
  return optimizer_->Step(arguments());
}

absl::Status CudaTrainer::Capture() {
  CudaApi& api = place_.api();
  SHARDSTEP_RETURN_IF_ERROR(optimizer_->BeginCapture());
  SHARDSTEP_RETURN_IF_ERROR(
      CudaStatus(api, api.StreamBeginCapture(place_.stream().handle()), "cudaStreamBeginCapture"));
  absl::Status captured = CallStep();
  if (captured.ok()) captured = optimizer_->EndCapture();
  // After an error, too: nothing else can be done with the stream inside a capture.
  captured.Update(CudaStatus(api, api.StreamEndCapture(place_.stream().handle(), &graph_), "cudaStreamEndCapture"));
  return captured;
}

absl::Status CudaTrainer::EnqueueStep() {
  place_.api().Begin();
  SHARDSTEP_RETURN_IF_ERROR(EnqueueCounted());
  for (const auto& [call, count] : place_.api().BlockingCalls()) {
    if (Blocks(call)) blocking_calls_[call] += count;
  }
  return absl::OkStatus();
}

absl::Status CudaTrainer::EnqueueCounted() {
  if (graph_ == nullptr) {
    SHARDSTEP_RETURN_IF_ERROR(CallStep());
  } else {
    SHARDSTEP_RETURN_IF_ERROR(optimizer_->Replay(arguments()));
    SHARDSTEP_RETURN_IF_ERROR(
        CudaStatus(place_.api(), place_.api().GraphLaunch(graph_, place_.stream().handle()), "cudaGraphLaunch"));
  }
  for (int p = 0; p < optimizer_->layout().parameter_count(); ++p) {
    SHARDSTEP_RETURN_IF_ERROR(optimizer_->WeightsReady(p));
  }
  return absl::OkStatus();
}

absl::Status CudaTrainer::Finish() {
  SHARDSTEP_ASSIGN_OR_RETURN(const StepRecord record, optimizer_->FinishStep());
  if (!record.applied) return absl::InternalError("a step of the benchmark was skipped, whose gradients are finite");
  return absl::OkStatus();
}

}  // namespace shardstep
