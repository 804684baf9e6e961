#include "shardstep/tools/gpu_check/gpu_trainer.h"

#include <cmath>
#include <cstring>
#include <utility>

#include "shardstep/comm/staged/staged_communicator.h"

namespace shardstep::gpu_check {
namespace {

// SplitMix64 (Steele et al., OOPSLA 2014), counter-based.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// Magnitudes over twelve binary orders, so that the order of additions shows.
float Gradient(int64_t step, int64_t micro_batch, int p, int64_t i) {
  const auto run = static_cast<uint64_t>((step * 4099 + micro_batch) * 61 + p);
  const uint64_t draw = Mix(run * 1000000007 + static_cast<uint64_t>(i));
  const double uniform = static_cast<double>(draw >> 11) * 0x1p-53 - 0.5;
  return static_cast<float>(std::ldexp(uniform, static_cast<int>(draw % 12) - 8));
}

std::vector<ParameterSpec> ParametersOf(const Training& training) {
  const int64_t n = training.elements;
  return {{.name = "embedding", .shape = {n / 8, 8}},
          {.name = "bias", .shape = {77}, .group = 1},
          {.name = "scalar", .shape = {}},
          {.name = "split", .shape = {n / 3}, .group = 1},
          {.name = "momentum", .shape = {n / 4, 2}, .group = 2},
          {.name = "sign", .shape = {n / 5}, .group = 3, .gradient_dtype = DType::kFp32},
          {.name = "fp32", .shape = {n / 6}, .weight_dtype = DType::kFp32},
          {.name = "head", .shape = {3, n / 9}}};
}

OptimizerOptions OptionsOf(const Training& training, int world_size) {
  OptimizerOptions options;
  options.groups = {
      {.rule = AdamWOptions{.weight_decay = 0.1}},
      {.rule = AdamWOptions{}, .master = Master::kSplit},
      {.rule = SgdOptions{.momentum = 0.9, .nesterov = true}},
      {.rule = LionOptions{.weight_decay = 0.1}, .master = Master::kNone, .rounding = Rounding::kStochastic}};
  options.bucket_bytes = training.bucket_bytes;
  options.micro_steps = training.micro_batches / world_size;
  options.update_threads = 1;
  return options;
}

class HostTrainingDevice : public TrainingDevice {
 public:
  ComputeDevice* compute() override { return nullptr; }
  Memory& memory() override { return HostMemory(); }
  absl::Status Copy(void* to, const void* from, int64_t size_bytes) override {
    std::memcpy(to, from, static_cast<size_t>(size_bytes));
    return absl::OkStatus();
  }
};

void* GradientOf(ShardedOptimizer& optimizer, int p) {
  const absl::Span<Bf16> bf16 = optimizer.gradient(p);
  return bf16.empty() ? static_cast<void*>(optimizer.fp32_gradient(p).data()) : bf16.data();
}

}  // namespace

std::unique_ptr<TrainingDevice> CreateHostTrainingDevice() { return std::make_unique<HostTrainingDevice>(); }

// ---- A GPU ---------------------------------------------------------------------------------------------------------

absl::StatusOr<std::unique_ptr<CudaTrainingDevice>> CudaTrainingDevice::Create(const CudaBackend& backend,
                                                                               const CudaDeviceRef& device) {
  std::unique_ptr<CudaTrainingDevice> made(new CudaTrainingDevice(device));
  SHARDSTEP_RETURN_IF_ERROR(MakeCurrent(device));
  SHARDSTEP_RETURN_IF_ERROR(CudaStatus(*device.api, device.api->StreamCreate(&made->stream_), "the compute stream"));
  SHARDSTEP_ASSIGN_OR_RETURN(
      made->compute_, CreateCudaComputeDevice({.api = device.api, .kernels = backend.kernels}, device, made->stream_));
  return made;
}

CudaTrainingDevice::~CudaTrainingDevice() {
  compute_.reset();
  if (stream_ != nullptr && MakeCurrent(device_).ok()) device_.api->StreamDestroy(stream_);
}

absl::Status CudaTrainingDevice::Copy(void* to, const void* from, int64_t size_bytes) {
  SHARDSTEP_RETURN_IF_ERROR(MakeCurrent(device_));
  return CudaStatus(*device_.api, device_.api->MemcpyAsync(to, from, size_bytes, stream_), "copy of a gradient");
}

absl::StatusOr<CommunicatorLevels> MakeStagedLevels(CudaTrainingDevice& device, Rendezvous& rendezvous,
                                                    std::unique_ptr<Communicator> inner) {
  SHARDSTEP_ASSIGN_OR_RETURN(
      std::unique_ptr<Communicator> staged,
      CreateStagedCommunicator(device.device(), device.memory(), rendezvous, std::move(inner), {}));
  return CommunicatorLevels(std::move(staged));
}

// ---- The trainer ---------------------------------------------------------------------------------------------------

absl::StatusOr<std::unique_ptr<GpuTrainer>> GpuTrainer::Create(const Training& training, CommunicatorLevels levels,
                                                               Rendezvous& rendezvous, TrainingDevice& device) {
  std::unique_ptr<GpuTrainer> trainer(new GpuTrainer(training, device));
  SHARDSTEP_ASSIGN_OR_RETURN(trainer->optimizer_, ShardedOptimizer::Create(OptionsOf(training, rendezvous.world_size()),
                                                                           ParametersOf(training), std::move(levels),
                                                                           &rendezvous, device.compute()));
  SHARDSTEP_RETURN_IF_ERROR(trainer->Allocate());
  SHARDSTEP_RETURN_IF_ERROR(trainer->optimizer_->Initialize([](int p, int64_t begin, absl::Span<float> values) {
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = 8 * Gradient(/*step=*/-1, /*micro_batch=*/0, p, begin + static_cast<int64_t>(i));
    }
  }));
  return trainer;
}

int64_t GpuTrainer::GradientBytes(int p) const {
  const ShardLayout& layout = optimizer_->layout();
  return layout.elements(p) * SizeBytes(layout.parameter(p).gradient_dtype);
}

absl::Status GpuTrainer::Allocate() {
  for (int p = 0; p < optimizer_->layout().parameter_count(); ++p) {
    slot_begin_bytes_.push_back(slot_bytes_);
    slot_bytes_ += (GradientBytes(p) + 255) / 256 * 256;
  }
  SHARDSTEP_ASSIGN_OR_RETURN(slots_, device_.memory().AllocateForBoth(micro_steps() * slot_bytes_, "gradients"));
  return absl::OkStatus();
}

void GpuTrainer::FillGradients(int64_t step) {
  const ShardLayout& layout = optimizer_->layout();
  for (int64_t k = 0; k < micro_steps(); ++k) {
    for (int p = 0; p < layout.parameter_count(); ++p) {
      const bool bf16 = layout.parameter(p).gradient_dtype == DType::kBf16;
      for (int64_t i = 0; i < layout.elements(p); ++i) {
        float value = Gradient(step, MicroBatch(k), p, i);
        if (step == training_.skipped_step && MicroBatch(k) == training_.micro_batches / 2 && p == 3 && i == 10)
          value = INFINITY;
        if (bf16) {
          reinterpret_cast<Bf16*>(Slot(k, p))[i] = ToBf16(value);
        } else {
          reinterpret_cast<float*>(Slot(k, p))[i] = value;
        }
      }
    }
  }
}

StepArguments GpuTrainer::ArgumentsOf(int64_t step) const {
  return {.learning_rate = 0.01 / (1.0 + static_cast<double>(step)),
          .micro_batches = training_.micro_batches,
          .max_norm = 0.5};
}

absl::Status GpuTrainer::Enqueue(int64_t step) {
  const int count = optimizer_->layout().parameter_count();
  for (int64_t k = 0; k < micro_steps(); ++k) {
    for (int p = 0; p < count; ++p) SHARDSTEP_RETURN_IF_ERROR(optimizer_->WeightsReady(p));
    for (int p = count - 1; p >= 0; --p) {
      SHARDSTEP_RETURN_IF_ERROR(optimizer_->GradientWritable(p));
      SHARDSTEP_RETURN_IF_ERROR(device_.Copy(GradientOf(*optimizer_, p), Slot(k, p), GradientBytes(p)));
      SHARDSTEP_RETURN_IF_ERROR(optimizer_->GradientReady(p));
    }
    SHARDSTEP_RETURN_IF_ERROR(optimizer_->EndMicroStep());
  }
  return optimizer_->Step(ArgumentsOf(step));
}

absl::Status GpuTrainer::Finish(int64_t step) {
  SHARDSTEP_ASSIGN_OR_RETURN(const StepRecord record, optimizer_->FinishStep());
  const bool skipped = !record.applied;
  if (skipped == (step == training_.skipped_step)) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("step ", step, " was ", skipped ? "skipped" : "applied"));
}

absl::Status GpuTrainer::Run(int64_t begin, int64_t end) {
  for (int64_t step = begin; step < end; ++step) {
    FillGradients(step);
    SHARDSTEP_RETURN_IF_ERROR(Enqueue(step));
    SHARDSTEP_RETURN_IF_ERROR(Finish(step));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> GpuTrainer::Digests() {
  SHARDSTEP_ASSIGN_OR_RETURN(const OptimizerDigests digests, optimizer_->Digests());
  return absl::StrCat("weights=", digests.weights.ToHex(), " master=", digests.master.ToHex(),
                      " first_moment=", digests.first_moment.ToHex(), " second_moment=", digests.second_moment.ToHex());
}

}  // namespace shardstep::gpu_check
