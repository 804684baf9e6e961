#include "shardstep/comm/cuda/cuda_device.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shardstep/tests/comm/rank_threads.h"
#include "shardstep/tests/cuda/fake_cuda.h"

namespace shardstep {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;

struct Rank {
  FakeCuda* cuda = nullptr;
  std::string host;
  absl::optional<int> ordinal;
};

/// What every rank gets: its device, or -1 and the error.
struct Outcome {
  std::vector<int> devices;
  std::vector<absl::Status> statuses;
};

Outcome Choose(const std::vector<Rank>& ranks, bool allow_sharing = false) {
  Outcome outcome{std::vector<int>(ranks.size(), -1), std::vector<absl::Status>(ranks.size())};
  RunRankThreads(static_cast<int>(ranks.size()), [&](Rendezvous& rendezvous) {
    const auto r = static_cast<size_t>(rendezvous.rank());
    const absl::StatusOr<CudaDeviceRef> device = ChooseCudaDevice(*ranks[r].cuda, rendezvous,
                                                                  {.ordinal = ranks[r].ordinal,
                                                                   .host_id = ranks[r].host,
                                                                   .allow_sharing = allow_sharing,
                                                                   .deadline = absl::Seconds(60)});
    outcome.statuses[r] = device.status();
    if (device.ok()) outcome.devices[r] = device->device;
  });
  return outcome;
}

void ExpectEverywhere(const Outcome& outcome, const absl::Status& expected) {
  EXPECT_THAT(outcome.devices, Each(-1));
  EXPECT_THAT(outcome.statuses, Each(expected));
}

TEST(CudaDeviceTest, ByDefaultTheLocalRank) {
  FakeCuda a({.devices = 2});
  FakeCuda b({.devices = 3});
  const Outcome outcome = Choose({{&a, "a"}, {&b, "b"}, {&b, "b"}, {&a, "a"}, {&b, "b\n1"}});
  EXPECT_THAT(outcome.devices, ElementsAre(0, 0, 1, 1, 0)) << outcome.statuses[0];
  EXPECT_EQ(a.calls("Malloc") + b.calls("Malloc"), 0);
}

TEST(CudaDeviceTest, AnOrdinalGoesFirst) {
  FakeCuda cuda({.devices = 4});
  EXPECT_THAT(Choose({{&cuda, "a", 3}, {&cuda, "a"}, {&cuda, "a", 0}}).devices, ElementsAre(3, 1, 0));
  ExpectEverywhere(Choose({{&cuda, "a"}, {&cuda, "a", 4}}),
                   absl::InvalidArgumentError("rank 1: there is no device 4, only devices 0 to 3"));
  ExpectEverywhere(Choose({{&cuda, "a", -1}, {&cuda, "a"}}),
                   absl::InvalidArgumentError("rank 0: there is no device -1, only devices 0 to 3"));
}

TEST(CudaDeviceTest, ALauncherMayShowEachRankItsOwn) {
  FakeCuda first({.devices = 1, .properties = {{.name = "H100", .major = 9, .uuid = "GPU-1"}}});
  FakeCuda second({.devices = 1, .properties = {{.name = "H100", .major = 9, .uuid = "GPU-2"}}});
  EXPECT_THAT(Choose({{&first, "a"}, {&second, "a"}}).devices, ElementsAre(0, 0));
}

TEST(CudaDeviceTest, WithoutADriverNobodyGoesOn) {
  FakeCuda whole;
  FakeCuda broken({.devices = 7});  // a count that would do, if it were read
  broken.FailCall("GetDeviceCount", 1, CudaApi::kInsufficientDriver);
  ExpectEverywhere(Choose({{&whole, "a"}, {&broken, "b"}}),
                   absl::NotFoundError("rank 1: no NVIDIA driver, or one too old (cudaErrorInsufficientDriver: CUDA "
                                       "driver version is insufficient for CUDA runtime version)"));
  FakeCuda empty({.devices = 0});
  ExpectEverywhere(Choose({{&empty, "a"}}),
                   absl::NotFoundError("rank 0: no CUDA device (cudaErrorNoDevice: no CUDA-capable device is "
                                       "detected)"));
}

TEST(CudaDeviceTest, TooFewDevicesAreRefusedUnlessShared) {
  FakeCuda cuda({.devices = 2});
  const std::vector<Rank> ranks = {{&cuda, "a"}, {&cuda, "a"}, {&cuda, "a"}};
  ExpectEverywhere(Choose(ranks), absl::FailedPreconditionError(
                                      "too few devices: ranks 0, 1, 2 are on one host with 2 devices; rank 2 has none "
                                      "left"));
  EXPECT_THAT(Choose(ranks, true).devices, ElementsAre(0, 1, 0));
}

TEST(CudaDeviceTest, OneDeviceForTwoRanksIsRefusedUnlessShared) {
  FakeCuda cuda({.devices = 2});
  const std::vector<Rank> ranks = {{&cuda, "a"}, {&cuda, "a", 0}};
  ExpectEverywhere(Choose(ranks),
                   absl::FailedPreconditionError(
                       "ranks 0 and 1 would share device 0 (Fake GPU, compute capability 9.0, GPU-fake-0): 2 ranks are "
                       "on its host; start as many as it has devices, or allow sharing"));
  EXPECT_THAT(Choose(ranks, true).devices, ElementsAre(0, 0));
  FakeCuda one;
  const Outcome outcome = Choose({{&one, "a"}, {&one, "a"}});
  EXPECT_THAT(std::string(outcome.statuses[0].message()), HasSubstr("ranks 0 and 1 would share device 0"));
  EXPECT_THAT(Choose({{&one, "a"}, {&one, "a"}}, true).devices, ElementsAre(0, 0));
}

TEST(CudaDeviceTest, DifferentDevicesOfOneHostAreRefused) {
  const CudaDeviceProperties h100{.name = "H100", .major = 9, .minor = 0, .uuid = "GPU-1"};
  FakeCuda mixed({.devices = 2, .properties = {h100, {.name = "A100", .major = 8, .minor = 0, .uuid = "GPU-2"}}});
  ExpectEverywhere(Choose({{&mixed, "a"}, {&mixed, "a"}}),
                   absl::FailedPreconditionError("different devices on one host: rank 0 has device 0 (H100, compute "
                                                 "capability 9.0, GPU-1), rank 1 has device 1 (A100, compute "
                                                 "capability 8.0, GPU-2)"));
  for (const CudaDeviceProperties& other : {CudaDeviceProperties{.name = "H100", .major = 9, .minor = 1},
                                            CudaDeviceProperties{.name = "H200", .major = 9, .minor = 0}}) {
    FakeCuda cuda({.devices = 2, .properties = {h100, other}});
    EXPECT_THAT(std::string(Choose({{&cuda, "a"}, {&cuda, "a"}}).statuses[1].message()),
                HasSubstr("different devices on one host"));
    EXPECT_THAT(Choose({{&cuda, "a", 0}, {&cuda, "b", 1}}).devices, ElementsAre(0, 1)) << "of two hosts";
  }
}

TEST(CudaDeviceTest, ACallThatFailsOnOneRankIsEveryRanksError) {
  FakeCuda whole;
  for (const std::string call : {"GetDeviceProperties", "SetDevice"}) {
    FakeCuda broken;
    broken.FailCall(call, 1, FakeCuda::kInvalidDevice);
    const Outcome outcome = Choose({{&whole, "a"}, {&broken, "b"}});
    EXPECT_THAT(outcome.devices, Each(-1));
    for (const absl::Status& status : outcome.statuses) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
      EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1: cuda" + call));
    }
  }
}

}  // namespace
}  // namespace shardstep
