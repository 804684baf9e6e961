#include "shardstep/tests/runtime/cuda_job.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "shardstep/comm/nccl/nccl_levels.h"
#include "shardstep/comm/staged/staged_levels.h"
#include "shardstep/runtime/cuda_backend.h"
#include "shardstep/tests/comm/rank_threads.h"
#include "shardstep/tests/cuda/host_cuda_kernels.h"

namespace shardstep {
namespace {

// Waits are named after the plan's node, or the trainer's call, that they are made in.
class NamingCuda : public FakeCuda {
 public:
  using FakeCuda::FakeCuda;
  void RangePush(const char* name) override {
    FakeCuda::RangePush(name);
    BeginPhase(name);
  }
};

// What all ranks of a job share.
struct World {
  explicit World(const CudaJob& cuda_job)
      : cuda(cuda_job.cuda), nccl(cuda, cuda_job.nccl), kernels(cuda, {.order_seed = cuda_job.kernel_order_seed}) {}

  NamingCuda cuda;
  FakeNccl nccl;
  HostCudaKernels kernels;
};

// One rank: its device, its compute stream, what the trainer keeps of its gradients on the host.
class CudaRank {
 public:
  CudaRank(const CudaJob& cuda_job, World& world, Rendezvous& rendezvous)
      : cuda_job_(cuda_job), world_(world), rendezvous_(rendezvous), ref_{&world.cuda, rendezvous.rank()} {
    EXPECT_EQ(ref_.api->SetDevice(ref_.device), 0);
    EXPECT_EQ(ref_.api->StreamCreate(&compute_stream_), 0);
    auto device = CreateCudaComputeDevice({.api = &world.cuda, .kernels = &world.kernels}, ref_, compute_stream_);
    EXPECT_TRUE(device.ok()) << device.status();
    device_ = *std::move(device);
  }
  ~CudaRank() {
    for (void* gradient : gradients_) ref_.api->FreeHost(gradient);
    device_.reset();
    ref_.api->StreamDestroy(compute_stream_);
  }

  TrainingResult Run() {
    TrainingJob job = cuda_job_.job;
    job.before_call = [this](ShardedOptimizer&, const std::string& call) { world_.cuda.BeginPhase(call); };
    job.after_steps = [this](ShardedOptimizer&) { world_.cuda.BeginPhase("end"); };
    job.before_step_call = [this](ShardedOptimizer& optimizer, int64_t step) {
      if (cuda_job_.reads_weights_late && cuda_job_.reads_weights_late(step)) ReadAllWeights(optimizer);
    };
    job.forward = [this](ShardedOptimizer& optimizer, int64_t, int p) { ReadWeights(optimizer, p); };
    job.upload = [this](ShardedOptimizer& optimizer, int p, absl::Span<const std::byte> gradient) {
      Upload(optimizer, p, gradient);
    };
    const int64_t bytes_before = AllocatedBytes();
    job.before_step = [&, this](ShardedOptimizer& optimizer, int64_t step) {
      if (step == job.first_step && cuda_job_.created) cuda_job_.created(world_.cuda, optimizer, bytes_before);
      if (cuda_job_.job.before_step) cuda_job_.job.before_step(optimizer, step);
    };
    const TrainRank by_graph = [this](const TrainingJob& j, ShardedOptimizer& optimizer,
                                      std::vector<StepRecord>* records) { TrainByGraph(j, optimizer, records); };
    return RunRank(job, MakeGpuLevels(), rendezvous_, device_.get(), cuda_job_.by_graph ? by_graph : nullptr);
  }

 private:
  int64_t AllocatedBytes() {
    int64_t free_bytes = 0;
    int64_t total_bytes = 0;
    EXPECT_EQ(ref_.api->SetDevice(ref_.device), 0);
    EXPECT_EQ(ref_.api->MemGetInfo(&free_bytes, &total_bytes), 0);
    return total_bytes - free_bytes;
  }

  CommunicatorLevels MakeGpuLevels() {
    const CudaJob::Transport transport = cuda_job_.transport;
    const bool by_nccl = transport == CudaJob::Transport::kNccl || transport == CudaJob::Transport::kNcclOnTwoLevels;
    absl::StatusOr<CommunicatorLevels> levels = by_nccl ? MakeNcclLevels() : MakeStagedLevels();
    EXPECT_TRUE(levels.ok()) << levels.status();
    return levels.ok() ? *std::move(levels) : CommunicatorLevels();
  }

  absl::StatusOr<CommunicatorLevels> MakeNcclLevels() {
    const std::vector<int>& hosts = cuda_job_.job.host_of_rank;
    NcclLevelsOptions options = {.host_id = absl::StrCat(hosts.empty() ? 0 : hosts[rendezvous_.rank()]),
                                 .host_address = "127.0.0.1",
                                 .wait_deadline = cuda_job_.job.options.wait_deadline,
                                 .exchange = cuda_job_.exchange,
                                 .landing_buckets = cuda_job_.landing_buckets,
                                 .heartbeat = absl::Milliseconds(20)};
    if (cuda_job_.transport == CudaJob::Transport::kNcclOnTwoLevels) options.levels = NcclLevelsOptions::Levels::kTwo;
    return CreateNcclLevels(world_.nccl, ref_, device_->memory(), rendezvous_, options);
  }

  absl::StatusOr<CommunicatorLevels> MakeStagedLevels() {
    TrainingJob on_cpus = cuda_job_.job;
    on_cpus.wrap = nullptr;
    return StageLevels(ref_, device_->memory(), rendezvous_, MakeLevels(on_cpus, rendezvous_), {});
  }

  // A kernel of the trainer's that comes after all gradients: it needs the old weights too.
  void ReadAllWeights(ShardedOptimizer& optimizer) {
    for (int p = 0; p < optimizer.layout().parameter_count(); ++p) ReadWeights(optimizer, p);
  }

  // A kernel of the trainer's.
  void ReadWeights(ShardedOptimizer& optimizer, int p) {
    const void* weights = optimizer.weights(p).data();
    if (weights == nullptr) weights = optimizer.fp32_weights(p).data();
    const int64_t size_bytes = optimizer.layout().elements(p) * SizeBytes(optimizer.layout().parameter(p).weight_dtype);
    if (size_bytes == 0) return;
    world_.cuda.Enqueue(compute_stream_, absl::StrCat("forward of ", p), {{weights, size_bytes, false}}, [] {});
  }

  void Upload(ShardedOptimizer& optimizer, int p, absl::Span<const std::byte> gradient) {
    if (gradient.empty()) return;
    void* const staging = NewStaging(static_cast<int64_t>(gradient.size()));
    std::copy(gradient.begin(), gradient.end(), static_cast<std::byte*>(staging));
    UploadFrom(staging, optimizer, p, gradient);
  }

  void* NewStaging(int64_t size_bytes) {
    void* staging = nullptr;
    EXPECT_EQ(ref_.api->HostAlloc(&staging, size_bytes), 0);
    gradients_.push_back(staging);
    return staging;
  }

  void UploadFrom(const void* staging, ShardedOptimizer& optimizer, int p, absl::Span<const std::byte> gradient) {
    void* to = optimizer.gradient(p).data();
    if (to == nullptr) to = optimizer.fp32_gradient(p).data();
    ASSERT_EQ(ref_.api->MemcpyAsync(to, staging, static_cast<int64_t>(gradient.size()), compute_stream_), 0);
  }

  // The first step as ever; then one step is captured, whose uploads read again what lies in their staging memory.
  void TrainByGraph(const TrainingJob& job, ShardedOptimizer& optimizer, std::vector<StepRecord>* records) {
    Train(job, optimizer, job.first_step, 1, records);
    TrainingJob with_slots = job;
    slots_.clear();
    size_t slot = 0;
    with_slots.upload = [this, &slot](ShardedOptimizer& o, int p, absl::Span<const std::byte> gradient) {
      if (!gradient.empty()) UploadFrom(slots_.at(slot++), o, p, gradient);
    };
    // Nothing can be allocated inside a capture.
    for (int64_t k = 0; k < job.micro_steps(); ++k) {
      for (int p = optimizer.layout().parameter_count() - 1; p >= 0; --p) {
        const bool has_data = k * optimizer.world_size() + optimizer.rank() < job.micro_batches;
        if (has_data && optimizer.layout().elements(p) > 0)
          slots_.push_back(NewStaging(2 * optimizer.layout().elements(p)));
      }
    }
    CudaGraphHandle graph = nullptr;
    ASSERT_TRUE(optimizer.BeginCapture().ok());
    ASSERT_EQ(ref_.api->StreamBeginCapture(compute_stream_), 0);
    CaptureStep(with_slots, optimizer);
    ASSERT_EQ(ref_.api->StreamEndCapture(compute_stream_, &graph), 0);
    for (int64_t step = job.first_step + 1; step < job.first_step + job.steps; ++step) {
      job.before_step(optimizer, step);
      FillSlots(job, optimizer, step);
      const absl::Status ordered = optimizer.Replay(ArgumentsOf(job, step));
      ASSERT_TRUE(ordered.ok()) << ordered;
      ASSERT_EQ(ref_.api->GraphLaunch(graph, compute_stream_), 0);
      const absl::StatusOr<StepRecord> record = optimizer.FinishStep();
      ASSERT_TRUE(record.ok()) << record.status();
      records->push_back(*record);
    }
    ASSERT_EQ(ref_.api->GraphDestroy(graph), 0);
  }

  void CaptureStep(const TrainingJob& job, ShardedOptimizer& optimizer) {
    for (int64_t k = 0; k < job.micro_steps(); ++k) MicroStep(job, optimizer, job.first_step, k);
    const absl::Status step = optimizer.Step(ArgumentsOf(job, job.first_step));
    ASSERT_TRUE(step.ok()) << step;
    const absl::Status ended = optimizer.EndCapture();
    ASSERT_TRUE(ended.ok()) << ended;
  }

  // In the order of MicroStep's uploads: last parameter first.
  void FillSlots(const TrainingJob& job, ShardedOptimizer& optimizer, int64_t step) {
    size_t slot = 0;
    TrainingJob refill = job;
    for (int64_t k = 0; k < job.micro_steps(); ++k) {
      const int64_t micro_batch = k * optimizer.world_size() + optimizer.rank();
      if (micro_batch >= job.micro_batches) break;
      for (int p = optimizer.layout().parameter_count() - 1; p >= 0; --p) {
        if (optimizer.layout().elements(p) == 0) continue;
        auto* const to = static_cast<Bf16*>(slots_.at(slot++));
        for (int64_t i = 0; i < optimizer.layout().elements(p); ++i) to[i] = job.gradient(step, micro_batch, p, i);
      }
    }
    ASSERT_EQ(slot, slots_.size());
  }

  const CudaJob& cuda_job_;
  World& world_;
  Rendezvous& rendezvous_;
  const CudaDeviceRef ref_;
  CudaStreamHandle compute_stream_ = nullptr;
  std::unique_ptr<ComputeDevice> device_;
  std::vector<void*> gradients_;  // pinned, until the end
  std::vector<void*> slots_;      // of one captured step
};

}  // namespace

TrainingResult RunCudaJob(const CudaJob& given) {
  CudaJob cuda_job = given;
  cuda_job.cuda.devices = cuda_job.job.world_size;
  World world(cuda_job);
  if (cuda_job.before) cuda_job.before(world.cuda);
  std::vector<TrainingResult> results(cuda_job.job.world_size);
  RunRankThreads(cuda_job.job.world_size, [&](Rendezvous& rendezvous) {
    CudaRank rank(cuda_job, world, rendezvous);
    results[rendezvous.rank()] = rank.Run();
  });
  if (cuda_job.after) cuda_job.after(world.cuda);
  for (const TrainingResult& result : results) EXPECT_EQ(result.digests, results[0].digests);
  EXPECT_EQ(world.cuda.leaks(), "");
  EXPECT_THAT(world.cuda.misuses(), testing::IsEmpty());
  EXPECT_THAT(world.nccl.problems(), testing::IsEmpty());
  EXPECT_EQ(world.nccl.live(), 0);
  return results[0];
}

}  // namespace shardstep
