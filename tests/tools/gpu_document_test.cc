// The trainer of docs/gpu.md, word by word, over GPUs and an NCCL that the host plays.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "shardstep/tests/comm/rank_threads.h"
#include "shardstep/tests/cuda/host_cuda_kernels.h"
#include "shardstep/tests/nccl/fake_nccl.h"

// [ docs/gpu.md
#include "shardstep/comm/cuda/cuda_device.h"
#include "shardstep/comm/nccl/nccl_levels.h"
#include "shardstep/comm/shm/host_id.h"
#include "shardstep/comm/tcp/tcp_rendezvous.h"
#include "shardstep/runtime/cuda_backend.h"
#include "shardstep/runtime/sharded_optimizer.h"

using namespace shardstep;

// What is yours; both only enqueue kernels on `stream`, a cudaStream_t.
struct Model {
  std::vector<ParameterSpec> parameters;
  std::function<void(int p, const Bf16* weights, void* stream)> forward;
  std::function<void(int p, Bf16* gradient, void* stream)> backward;
};

absl::Status Train(const Model& model, const CudaBackend& backend, NcclApi& nccl, Rendezvous& job, int64_t steps) {
  // By the rank's place on its host, current on this thread from here on.
  SHARDSTEP_ASSIGN_OR_RETURN(const CudaDeviceRef gpu,
                             ChooseCudaDevice(*backend.api, job, {.host_id = DefaultHostId()}));
  // Or the cudaStream_t that you have; not the default stream.
  SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<CudaStream> compute, CudaStream::Create(gpu, "compute"));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<ComputeDevice> device,
                             CreateCudaComputeDevice(backend, gpu, compute->handle()));
  SHARDSTEP_ASSIGN_OR_RETURN(CommunicatorLevels levels, CreateNcclLevels(nccl, gpu, device->memory(), job, {}));
  SHARDSTEP_ASSIGN_OR_RETURN(
      const std::unique_ptr<ShardedOptimizer> optimizer,
      ShardedOptimizer::Create(OptimizerOptions(), model.parameters, std::move(levels), &job, device.get()));
  // Host memory, for the ranges that this rank owns.
  SHARDSTEP_RETURN_IF_ERROR(optimizer->Initialize(
      [](int /*p*/, int64_t /*begin*/, absl::Span<float> values) { std::fill(values.begin(), values.end(), 0.01f); }));
  const int count = static_cast<int>(model.parameters.size());
  for (int64_t step = 0; step < steps; ++step) {
    for (int p = 0; p < count; ++p) {
      SHARDSTEP_RETURN_IF_ERROR(optimizer->WeightsReady(p));  // the stream waits, not this thread
      model.forward(p, optimizer->weights(p).data(), compute->handle());
    }
    for (int p = count - 1; p >= 0; --p) {
      SHARDSTEP_RETURN_IF_ERROR(optimizer->GradientWritable(p));
      model.backward(p, optimizer->gradient(p).data(), compute->handle());
      SHARDSTEP_RETURN_IF_ERROR(optimizer->GradientReady(p));
    }
    SHARDSTEP_RETURN_IF_ERROR(optimizer->EndMicroStep());
    SHARDSTEP_RETURN_IF_ERROR(optimizer->Step({.learning_rate = 1e-3, .max_norm = 1.0}));
    // The one call that waits; later is better, any time before the next Step.
    SHARDSTEP_RETURN_IF_ERROR(optimizer->FinishStep().status());
  }
  return absl::OkStatus();
}

// A launcher such as torchrun says who is who; `address` is a free port of rank 0's host.
absl::Status TrainAsRank(const Model& model, int rank, int world_size, const std::string& address, int64_t steps) {
  SHARDSTEP_ASSIGN_OR_RETURN(const CudaBackend backend, GetCudaBackend());
  SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<NcclApi> nccl, LoadNccl(""));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<Rendezvous> job,
                             CreateTcpRendezvous({.address = address, .rank = rank, .world_size = world_size}));
  return Train(model, backend, *nccl, *job, steps);
}
// ]

namespace {

std::string Between(const std::string& text, const std::string& begin, const std::string& end) {
  const size_t from = text.find(begin);
  if (from == std::string::npos) return "";
  return text.substr(from + begin.size(), text.find(end, from + begin.size()) - from - begin.size());
}

std::string Read(const char* file) {
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

TEST(GpuDocumentTest, ItsTrainerIsTheOneBelow) {
  const std::string here = Between(Read(SHARDSTEP_THIS_SOURCE), "// [ docs/gpu.md\n", "// ]\n");
  EXPECT_GT(here.size(), 1000u);
  EXPECT_EQ(Between(Read(SHARDSTEP_GPU_DOCUMENT), "```cpp\n", "```\n"), here);
}

TEST(GpuDocumentTest, ItsTrainerTrainsOnTwoGpus) {
  FakeCuda cuda({.devices = 2});
  FakeNccl nccl(cuda);
  HostCudaKernels kernels(cuda);
  const Model model = {
      .parameters = {{.name = "matrix", .shape = {50, 90}}, {.name = "bias", .shape = {90}}},
      .forward =
          [&](int, const Bf16* weights, void* stream) {
            EXPECT_EQ(cuda.Enqueue(stream, "forward", {}, [weights] { EXPECT_TRUE(IsFinite(weights[0])); }), 0);
          },
      .backward =
          [&](int p, Bf16* gradient, void* stream) {
            const int elements = p == 0 ? 4500 : 90;
            EXPECT_EQ(
                cuda.Enqueue(stream, "backward", {}, [=] { std::fill(gradient, gradient + elements, ToBf16(0.5f)); }),
                0);
          }};
  RunRankThreads(2, [&](Rendezvous& job) {
    const absl::Status trained = Train(model, {.api = &cuda, .kernels = &kernels}, nccl, job, /*steps=*/3);
    EXPECT_TRUE(trained.ok()) << trained;
  });
  EXPECT_EQ(cuda.leaks(), "");
  EXPECT_EQ(nccl.live(), 0);
  EXPECT_THAT(nccl.problems(), testing::IsEmpty());
}

TEST(GpuDocumentTest, WithoutAGpuItsTrainerSaysSo) {
  const absl::Status status = TrainAsRank({}, 0, 1, "127.0.0.1:1", 1);
  EXPECT_FALSE(status.ok());
}

}  // namespace
