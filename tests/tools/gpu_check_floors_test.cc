// What is asked of a benchmark's ratios.
#include "shardstep/tools/gpu_check/floor_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "shardstep/tests/cuda/host_cuda_kernels.h"

namespace shardstep::gpu_check {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

CudaBenchRow Row(double of_twin, double of_copy, double norm_of_twin) {
  CudaBenchRow row;
  row.step_ms = {5};
  row.gradient_ms = {2};
  row.update_ms = {2};
  row.update = {.bytes = 1000, .kernel_ms = {1}, .twin_ms = {of_twin}};
  row.norm = {.bytes = 1000, .kernel_ms = {1}, .twin_ms = {norm_of_twin}};
  row.copied_bytes = 1000;
  row.copy_ms = {of_copy};
  return row;
}

TEST(GpuCheckFloorsTest, RatiosFromNineTenthsOnPass) {
  const auto passed = JudgeFloors(Row(0.9, 0.91, 0.95), 9);
  ASSERT_TRUE(passed.ok()) << passed.status();
  EXPECT_THAT(*passed, AllOf(HasSubstr("update of its twin 0.900, update of a copy 0.910, norm of its twin 0.950"),
                             HasSubstr("update kernel 1.000 ms")));
}

TEST(GpuCheckFloorsTest, EachRatioBelowIsNamed) {
  const struct {
    CudaBenchRow row;
    const char* name;
  } cases[] = {{Row(0.89, 1, 1), "below 0.90: update of its twin 0.890; "},
               {Row(1, 0.89, 1), "below 0.90: update of a copy 0.890; "},
               {Row(1, 1, 0.89), "below 0.90: norm of its twin 0.890; "}};
  for (const auto& [row, name] : cases) {
    EXPECT_THAT(std::string(JudgeFloors(row, 10).status().message()), HasSubstr(name));
  }
}

TEST(GpuCheckFloorsTest, WhatWasNotMeasuredIsNotEnough) {
  CudaBenchRow row = Row(1, 1, 1);
  row.norm.twin_ms.clear();
  EXPECT_FALSE(JudgeFloors(row, 9).ok());
}

TEST(GpuCheckFloorsTest, OlderDevicesAreNotJudgedByRatios) {
  const auto told = JudgeFloors(Row(0.5, 0.5, 0.5), 8);
  ASSERT_TRUE(told.ok()) << told.status();
  EXPECT_THAT(*told, HasSubstr("not judged below compute capability 9.0"));
}

TEST(GpuCheckFloorsTest, CallsThatBlockAndWrongWeightsFailEverywhere) {
  CudaBenchRow row = Row(1, 1, 1);
  row.blocking_calls = 2;
  EXPECT_THAT(std::string(JudgeFloors(row, 8).status().message()), HasSubstr("2 calls that may block the host"));
  row = Row(1, 1, 1);
  row.wrong = 1;
  EXPECT_THAT(std::string(JudgeFloors(row, 8).status().message()), HasSubstr("1 weights are wrong"));
}

TEST(GpuCheckFloorsTest, ABenchmarkOfADeviceThatTheHostPlays) {
  FakeCuda cuda({.properties = {{.name = "Old GPU", .major = 8}}});
  HostCudaKernels kernels(cuda);
  std::ostringstream out;
  const auto told = CheckFloors({.backend = {.api = &cuda, .kernels = &kernels}, .device = {.api = &cuda, .device = 0}},
                                {.parameters = 5000, .steps = 2}, out);
  ASSERT_TRUE(told.ok()) << told.status();
  EXPECT_THAT(out.str(), AllOf(HasSubstr("update_of_twin"), HasSubstr("Old_GPU")));
  EXPECT_EQ(cuda.leaks(), "");
}

}  // namespace
}  // namespace shardstep::gpu_check
