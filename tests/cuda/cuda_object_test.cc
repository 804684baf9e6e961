#include <dlfcn.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shardstep/comm/cuda/cuda_device.h"
#include "shardstep/tests/comm/rank_threads.h"

namespace shardstep {
namespace {

using testing::AnyOf;
using testing::HasSubstr;
using testing::StartsWith;

/// The real table, of a process that no device is shown to: CUDA_VISIBLE_DEVICES is empty (tests/cuda/CMakeLists.txt),
/// and there may be no driver either.
class CudaObjectTest : public testing::Test {
 protected:
  CudaObjectTest() {
    void* const object = dlopen(SHARDSTEP_CUDA_OBJECT, RTLD_NOW | RTLD_LOCAL);
    EXPECT_NE(object, nullptr) << dlerror();
    if (object == nullptr) return;
    auto* const table = reinterpret_cast<CudaApi* (*)()>(dlsym(object, "shardstep_cuda_api"));
    EXPECT_NE(table, nullptr) << dlerror();
    if (table != nullptr) api_ = table();
  }

  CudaApi* api_ = nullptr;
};

TEST_F(CudaObjectTest, NoDeviceIsAClearRefusalOnEveryRank) {
  ASSERT_NE(api_, nullptr);
  RunRankThreads(2, [&](Rendezvous& rendezvous) {
    const absl::Status status = ChooseCudaDevice(*api_, rendezvous, {.host_id = "host"}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
    EXPECT_THAT(std::string(status.message()),
                AnyOf(StartsWith("rank 0: no NVIDIA driver, or one too old (cudaErrorInsufficientDriver: "),
                      StartsWith("rank 0: no CUDA device (cudaErrorNoDevice: ")));
  });
}

TEST_F(CudaObjectTest, EveryCallFailsWithoutADeviceAndTheCountStaysUnset) {
  ASSERT_NE(api_, nullptr);
  int count = 12345;
  const int error = api_->GetDeviceCount(&count);
  EXPECT_THAT(error, AnyOf(CudaApi::kInsufficientDriver, CudaApi::kNoDevice));
  EXPECT_EQ(count, 12345);
  EXPECT_THAT(api_->ErrorText(error), HasSubstr("cudaError"));
  EXPECT_EQ(CudaStream::Create({api_, 0}, "update").status().code(), absl::StatusCode::kInternal);
  void* pointer = nullptr;
  EXPECT_NE(api_->Malloc(&pointer, 8), CudaApi::kSuccess);
  EXPECT_NE(api_->HostAlloc(&pointer, 8), CudaApi::kSuccess);
  CudaGraphHandle graph = &count;
  EXPECT_NE(api_->StreamEndCapture(nullptr, &graph), CudaApi::kSuccess);
  EXPECT_EQ(graph, nullptr);
  uint32_t word = 0;
  EXPECT_NE(api_->StreamWaitValue(nullptr, &word, 1), CudaApi::kSuccess);
  api_->Signal(&word, 7);
  EXPECT_EQ(word, 7U);
  api_->RangePush("step");
  api_->RangePop();
}

TEST_F(CudaObjectTest, ErrorsHaveNames) {
  ASSERT_NE(api_, nullptr);
  EXPECT_EQ(api_->ErrorText(CudaApi::kMemoryAllocation), "cudaErrorMemoryAllocation: out of memory");
  EXPECT_EQ(CudaStatus(*api_, CudaApi::kMemoryAllocation, "moments: cudaMalloc"),
            absl::ResourceExhaustedError("moments: cudaMalloc: cudaErrorMemoryAllocation: out of memory"));
  EXPECT_THAT(api_->ErrorText(123456), StartsWith("unrecognized error code"));
}

}  // namespace
}  // namespace shardstep
