// The checks of whole steps, on a GPU that the host plays: what is right passes, what is wrong is named.
#include "shardstep/tools/gpu_check/step_checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shardstep/comm/inproc/thread_rendezvous.h"
#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/tests/comm/rank_threads.h"
#include "shardstep/tests/cuda/host_cuda_kernels.h"
#include "shardstep/tools/gpu_check/counting_cuda_api.h"
#include "shardstep/tools/gpu_check/rank_training.h"

namespace shardstep::gpu_check {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

constexpr Training kSmall = {.elements = 6000, .bucket_bytes = 8192};

// Kernels that compute something else when they are captured.
class WrongInGraphs : public HostCudaKernels {
 public:
  explicit WrongInGraphs(FakeCuda& cuda) : HostCudaKernels(cuda), cuda_(cuda) {}
  int Update(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream) override {
    bool capturing = false;
    cuda_.StreamIsCapturing(stream, &capturing);
    if (capturing && args.kind.rule == Rule::kLion) return CudaApi::kSuccess;
    return HostCudaKernels::Update(args, sum, stream);
  }

 private:
  FakeCuda& cuda_;
};

// A runtime that waits for whatever it records an event behind, once the gate is closed and has its own event.
class WaitingApi : public CountingCudaApi {
 public:
  explicit WaitingApi(CudaApi& api) : CountingCudaApi(api) {}
  int StreamWaitValue(CudaStreamHandle stream, const uint32_t* word, uint32_t value) override {
    closed_ = true;
    return CountingCudaApi::StreamWaitValue(stream, word, value);
  }
  int EventRecord(CudaEventHandle event, CudaStreamHandle stream) override {
    const int error = CountingCudaApi::EventRecord(event, stream);
    if (closed_ && events_behind_++ > 0) StreamSynchronize(stream);
    return error;
  }

 private:
  std::atomic<bool> closed_{false};
  std::atomic<int> events_behind_{0};
};

// A runtime that knows of no pinned memory.
class PageableApi : public CountingCudaApi {
 public:
  explicit PageableApi(CudaApi& api) : CountingCudaApi(api) {}
  int PointerGetAttributes(const void*, CudaPointerInfo* info) override {
    info->kind = CudaPointerInfo::kHost;
    return kSuccess;
  }
};

TEST(GpuCheckStepsTest, GraphsThatAreRightPass) {
  FakeCuda cuda;
  HostCudaKernels kernels(cuda);
  const auto passed = CheckGraph(kSmall, {.api = &cuda, .kernels = &kernels}, {.api = &cuda, .device = 0});
  ASSERT_TRUE(passed.ok()) << passed.status();
  EXPECT_THAT(*passed, HasSubstr("5 replays of one graph, step 3 skipped"));
  EXPECT_EQ(cuda.calls("GraphLaunch"), 5);
  EXPECT_EQ(cuda.leaks(), "");
  EXPECT_THAT(cuda.misuses(), IsEmpty());
}

TEST(GpuCheckStepsTest, GraphsOfOtherBitsAreNamed) {
  FakeCuda cuda;
  WrongInGraphs kernels(cuda);
  const auto found = CheckGraph(kSmall, {.api = &cuda, .kernels = &kernels}, {.api = &cuda, .device = 0});
  EXPECT_THAT(std::string(found.status().message()), HasSubstr("steps by a graph end in weights="));
  EXPECT_EQ(cuda.leaks(), "");
}

TEST(GpuCheckStepsTest, AStepThatNeverBlocksPasses) {
  FakeCuda cuda;
  HostCudaKernels kernels(cuda);
  const auto passed = CheckAsync(kSmall, {.api = &cuda, .kernels = &kernels}, {.api = &cuda, .device = 0});
  ASSERT_TRUE(passed.ok()) << passed.status();
  EXPECT_EQ(cuda.leaks(), "");
  EXPECT_THAT(cuda.misuses(), IsEmpty());
}

TEST(GpuCheckStepsTest, AStepOfAnyNumberOfMicroBatchesIsSkippedWhereItShould) {
  for (const int64_t micro_batches : {1, 2, 3}) {
    Training training = kSmall;
    training.micro_batches = micro_batches;
    FakeCuda cuda;
    HostCudaKernels kernels(cuda);
    const auto passed = CheckAsync(training, {.api = &cuda, .kernels = &kernels}, {.api = &cuda, .device = 0});
    EXPECT_TRUE(passed.ok()) << micro_batches << ": " << passed.status();
  }
}

TEST(GpuCheckStepsTest, AStepThatWaitsIsNamedAndLetGo) {
  FakeCuda cuda;
  HostCudaKernels kernels(cuda);
  WaitingApi api(cuda);
  const auto found = CheckAsync(kSmall, {.api = &cuda, .kernels = &kernels}, {.api = &api, .device = 0},
                                /*patience=*/absl::Milliseconds(50));
  EXPECT_THAT(std::string(found.status().message()), HasSubstr("work that does not end had not returned after 50ms"));
  EXPECT_EQ(cuda.leaks(), "");
}

TEST(GpuCheckStepsTest, ACallThatMayBlockIsNamed) {
  FakeCuda cuda;
  HostCudaKernels kernels(cuda);
  PageableApi api(cuda);
  const auto found = CheckAsync(kSmall, {.api = &cuda, .kernels = &kernels}, {.api = &api, .device = 0});
  EXPECT_THAT(std::string(found.status().message()), HasSubstr("MemcpyAsync of pageable memory"));
}

TEST(GpuCheckStepsTest, BlockingCallsAreCountedPerThread) {
  FakeCuda cuda;
  CountingCudaApi api(cuda);
  void* pinned = nullptr;
  void* device = nullptr;
  CudaStreamHandle stream = nullptr;
  ASSERT_EQ(api.SetDevice(0), 0);
  ASSERT_EQ(api.StreamCreate(&stream), 0);
  ASSERT_EQ(api.HostAlloc(&pinned, 64), 0);
  ASSERT_EQ(api.Malloc(&device, 64), 0);
  EXPECT_EQ(api.BlockingCalls().size(), 3u);
  api.Begin();
  ASSERT_EQ(api.MemcpyAsync(device, pinned, 64, stream), 0);
  std::thread([&] {
    api.SetDevice(0);
    api.StreamSynchronize(stream);
    EXPECT_EQ(api.BlockingCalls(), (std::map<std::string, int64_t>{{"StreamSynchronize", 1}}));
  }).join();
  EXPECT_THAT(api.BlockingCalls(), IsEmpty());
  int64_t pageable = 0;
  ASSERT_EQ(api.MemcpyAsync(&pageable, device, 8, stream), 0);
  ASSERT_EQ(api.StreamSynchronize(stream), 0);
  EXPECT_EQ(api.BlockingCalls(),
            (std::map<std::string, int64_t>{{"MemcpyAsync of pageable memory", 1}, {"StreamSynchronize", 1}}));
  api.FreeHost(pinned);
  api.Free(device);
  api.StreamDestroy(stream);
}

// Ranks that are threads, on CPUs or sharing the device.
std::vector<std::string> RunThreads(int world_size, const std::optional<Gpu>& gpu) {
  std::vector<std::string> digests(static_cast<size_t>(world_size));
  RunRankThreads(world_size, [&](Rendezvous& rendezvous) {
    auto inner = CreateInprocCommunicator(rendezvous, {});
    ASSERT_TRUE(inner.ok()) << inner.status();
    const auto trained = TrainRank(kSmall, rendezvous, *std::move(inner), gpu);
    ASSERT_TRUE(trained.ok()) << trained.status();
    digests[static_cast<size_t>(rendezvous.rank())] = *trained;
  });
  return digests;
}

TEST(GpuCheckStepsTest, RanksThatShareADeviceHaveTheBitsOfOneAndOfTheCpu) {
  FakeCuda cuda;
  HostCudaKernels kernels(cuda);
  const Gpu gpu = {.backend = {.api = &cuda, .kernels = &kernels}, .device = {.api = &cuda, .device = 0}};
  const auto passed = CheckRanks(
      [&](int world_size, bool on_gpu) -> absl::StatusOr<std::vector<std::string>> {
        return RunThreads(world_size, on_gpu ? std::optional<Gpu>(gpu) : std::nullopt);
      },
      /*most_ranks=*/3, /*cuda=*/true);
  ASSERT_TRUE(passed.ok()) << passed.status();
  EXPECT_THAT(*passed, HasSubstr("1 to 3 ranks on CPUs and sharing a GPU end in weights="));
  EXPECT_EQ(cuda.leaks(), "");
  EXPECT_THAT(cuda.misuses(), IsEmpty());
}

TEST(GpuCheckStepsTest, RanksWithOtherBitsAreNamed) {
  const auto run = [](int world_size, bool on_gpu) -> absl::StatusOr<std::vector<std::string>> {
    return std::vector<std::string>(static_cast<size_t>(world_size), on_gpu && world_size == 2 ? "other" : "same");
  };
  EXPECT_TRUE(CheckRanks(run, 2, /*cuda=*/false).ok());
  EXPECT_THAT(std::string(CheckRanks(run, 2, /*cuda=*/true).status().message()),
              HasSubstr("2 ranks that share a GPU end in other, one on a CPU in same"));
}

}  // namespace
}  // namespace shardstep::gpu_check
