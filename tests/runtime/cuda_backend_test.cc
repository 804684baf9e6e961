#include "shardstep/runtime/cuda_backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shardstep/comm/cuda/cuda_api.h"
#include "shardstep/optimizer/cuda_kernels.h"

namespace shardstep {
namespace {

using testing::HasSubstr;

TEST(CudaBackendTest, SaysWhatItDidNotFind) {
  const absl::Status status = GetCudaBackend("/nowhere/libshardstep_cuda.so").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nowhere/libshardstep_cuda.so"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("SHARDSTEP_WITH_CUDA"));
}

TEST(CudaBackendTest, RefusesAnotherLibrary) {
  const absl::Status status = GetCudaBackend("libm.so.6").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("shardstep_cuda_version"));
}

#ifdef SHARDSTEP_CUDA_OBJECT
// Without a device too.
TEST(CudaBackendTest, HasBothTables) {
  const absl::StatusOr<CudaBackend> backend = GetCudaBackend(SHARDSTEP_CUDA_OBJECT);
  ASSERT_TRUE(backend.ok()) << backend.status();
  EXPECT_FALSE(backend->api->ErrorText(2).empty());
  EXPECT_NE(backend->kernels->Target(), nullptr);
}
#endif

}  // namespace
}  // namespace shardstep
