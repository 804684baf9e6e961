#ifndef SHARDSTEP_TOOLS_GPU_CHECK_GPU_TRAINER_H_
#define SHARDSTEP_TOOLS_GPU_CHECK_GPU_TRAINER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/runtime/cuda_backend.h"
#include "shardstep/runtime/sharded_optimizer.h"

namespace shardstep::gpu_check {

/// A training run without a model: every gradient is a function of step, micro-batch, parameter and element, and so the
/// same on any number of ranks and any device. Parameters have all rules and masters. One step has an inf, and is
/// skipped.
struct Training {
  int64_t elements = 400'000;  ///< of the largest parameter; at least 100
  int64_t micro_batches = 12;  ///< per step; a multiple of the number of ranks
  int64_t steps = 6;
  int64_t skipped_step = 3;
  int64_t bucket_bytes = 256 << 10;
};

/// The device of one rank, and its compute stream: the host's CPUs, or a GPU.
class TrainingDevice {
 public:
  virtual ~TrainingDevice() = default;
  /// To hand to ShardedOptimizer::Create.
  virtual ComputeDevice* compute() = 0;
  /// For memory that both sides reach.
  virtual Memory& memory() = 0;
  /// Enqueued on the compute stream.
  virtual absl::Status Copy(void* to, const void* from, int64_t size_bytes) = 0;
};
std::unique_ptr<TrainingDevice> CreateHostTrainingDevice();

class CudaTrainingDevice : public TrainingDevice {
 public:
  static absl::StatusOr<std::unique_ptr<CudaTrainingDevice>> Create(const CudaBackend& backend,
                                                                    const CudaDeviceRef& device);
  ~CudaTrainingDevice() override;

  ComputeDevice* compute() override { return compute_.get(); }
  Memory& memory() override { return compute_->memory(); }
  absl::Status Copy(void* to, const void* from, int64_t size_bytes) override;

  const CudaDeviceRef& device() const { return device_; }
  CudaStreamHandle stream() const { return stream_; }

 private:
  explicit CudaTrainingDevice(const CudaDeviceRef& device) : device_(device) {}

  const CudaDeviceRef device_;
  CudaStreamHandle stream_ = nullptr;
  std::unique_ptr<ComputeDevice> compute_;
};

/// Collective. The ranks of `inner`, of the host, staged for a GPU (comm/staged).
absl::StatusOr<CommunicatorLevels> MakeStagedLevels(CudaTrainingDevice& device, Rendezvous& rendezvous,
                                                    std::unique_ptr<Communicator> inner);

/// One rank of a Training.
class GpuTrainer {
 public:
  /// Collective. `rendezvous` and `device` outlive it.
  static absl::StatusOr<std::unique_ptr<GpuTrainer>> Create(const Training& training, CommunicatorLevels levels,
                                                            Rendezvous& rendezvous, TrainingDevice& device);

  /// The gradients of step `step`, in memory that the device reads, where Backward finds them. Nothing is under way.
  void FillGradients(int64_t step);
  /// All that a step is but its end: weights, gradients, Step.
  absl::Status Enqueue(int64_t step);
  /// Error when it was not skipped, or applied, as it should be.
  absl::Status Finish(int64_t step);
  /// Steps [begin, end), one after the other.
  absl::Status Run(int64_t begin, int64_t end);
  StepArguments ArgumentsOf(int64_t step) const;

  ShardedOptimizer& optimizer() { return *optimizer_; }
  /// Collective. Of everything, as one line.
  absl::StatusOr<std::string> Digests();

 private:
  GpuTrainer(const Training& training, TrainingDevice& device) : training_(training), device_(device) {}
  absl::Status Allocate();
  int64_t MicroBatch(int64_t micro_step) const { return micro_step * optimizer_->world_size() + optimizer_->rank(); }
  int64_t micro_steps() const { return training_.micro_batches / optimizer_->world_size(); }
  int64_t GradientBytes(int p) const;
  /// Where the gradient of p in micro-step k waits to be copied.
  std::byte* Slot(int64_t k, int p) { return slots_.view().data + k * slot_bytes_ + slot_begin_bytes_[p]; }

  const Training training_;
  TrainingDevice& device_;
  std::unique_ptr<ShardedOptimizer> optimizer_;
  Buffer slots_;
  int64_t slot_bytes_ = 0;  ///< of one micro-step
  std::vector<int64_t> slot_begin_bytes_;
};

}  // namespace shardstep::gpu_check

#endif  // SHARDSTEP_TOOLS_GPU_CHECK_GPU_TRAINER_H_
