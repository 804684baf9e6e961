// R10, the part of one rank: the check of NCCL passes where NCCL does what it should, and names what it does not.
#include "shardstep/tools/gpu_check/nccl_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shardstep/tests/cuda/fake_cuda.h"
#include "shardstep/tests/nccl/fake_nccl.h"
#include "shardstep/tools/gpu_check/counting_cuda_api.h"

namespace shardstep::gpu_check {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr NcclCheckOptions kSmall = {.elements = 512, .rounds = 3, .leak_bytes = 1 << 10};

// A device that has 1 MiB less each time it is asked.
class LeakingApi : public CountingCudaApi {
 public:
  explicit LeakingApi(CudaApi& api) : CountingCudaApi(api) {}
  int MemGetInfo(int64_t* free_bytes, int64_t* total_bytes) override {
    const int error = CountingCudaApi::MemGetInfo(free_bytes, total_bytes);
    *free_bytes -= ++asked_ << 20;
    return error;
  }

 private:
  int64_t asked_ = 0;
};

TEST(GpuCheckNcclTest, R10PassesAndLeavesNothing) {
  for (const bool recent : {false, true}) {
    FakeCuda cuda;
    FakeNccl nccl(cuda, {.all_to_all = recent, .revoke = recent});
    const auto passed = CheckNccl(nccl, {.api = &cuda, .device = 0}, kSmall);
    ASSERT_TRUE(passed.ok()) << passed.status();
    EXPECT_THAT(*passed, HasSubstr(recent ? "NCCL 2.28.9, with AllToAll" : "NCCL 2.28.9, without AllToAll"));
    EXPECT_THAT(*passed, EndsWith(recent ? "destroyed, revoked and aborted" : "destroyed, and aborted"));
    EXPECT_EQ(nccl.live(), 0);
    EXPECT_THAT(nccl.problems(), IsEmpty());
    EXPECT_EQ(nccl.calls("CommRevoke"), recent ? 3 : 0);
    EXPECT_EQ(nccl.calls("CommAbort"), recent ? 6 : 3);
    EXPECT_EQ(nccl.calls("CommDestroy"), 3);
    EXPECT_EQ(cuda.leaks(), "");
  }
}

TEST(GpuCheckNcclTest, R10EveryCallThatFailsIsNamedAndNothingLeaks) {
  for (const char* call : {"GetUniqueId", "CommInitRank", "AllGather", "ReduceScatterSum", "AllReduceSum",
                           "AllReduceMin", "Send", "Recv", "AllToAll", "CommFinalize", "CommRevoke"}) {
    FakeCuda cuda;
    FakeNccl nccl(cuda);
    nccl.FailCall(call, 1, FakeNccl::kSystemError);
    EXPECT_FALSE(CheckNccl(nccl, {.api = &cuda, .device = 0}, kSmall).ok()) << call;
    EXPECT_EQ(nccl.live(), 0) << call;
    EXPECT_EQ(cuda.leaks(), "") << call;
  }
}

TEST(GpuCheckNcclTest, R10AnInitThatFailsOrNeverEndsIsAborted) {
  for (const int result : {FakeNccl::kInternalError, NcclApi::kInProgress}) {
    FakeCuda cuda;
    FakeNccl nccl(cuda);
    nccl.SetInitResult(0, result);
    NcclCheckOptions options = kSmall;
    options.deadline = absl::Milliseconds(20);
    EXPECT_THAT(std::string(CheckNccl(nccl, {.api = &cuda, .device = 0}, options).status().message()),
                HasSubstr("ncclCommInitRankConfig"));
    EXPECT_EQ(nccl.live(), 0);
    EXPECT_EQ(cuda.leaks(), "");
  }
}

TEST(GpuCheckNcclTest, MemoryThatDoesNotComeBackIsNamed) {
  FakeCuda cuda;
  FakeNccl nccl(cuda);
  LeakingApi api(cuda);
  EXPECT_THAT(std::string(CheckNccl(nccl, {.api = &api, .device = 0}, kSmall).status().message()),
              HasSubstr("bytes of the device have not come back"));
}

}  // namespace
}  // namespace shardstep::gpu_check
