// No memory at any allocation of a call: an error, and no exception out of the C interface.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <future>
#include <limits>
#include <new>
#include <vector>

#include "c_trainer.h"

namespace {

// How many allocations of this thread succeed before one fails.
thread_local int64_t allocations_left = std::numeric_limits<int64_t>::max();

void* Allocate(std::size_t size) {
  if (allocations_left-- <= 0) {
    allocations_left = std::numeric_limits<int64_t>::max();
    throw std::bad_alloc();
  }
  void* const memory = std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(std::size_t size) { return Allocate(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace shardstep {
namespace {

constexpr shardstep_job kAlone = SHARDSTEP_JOB_INIT;

/// Lets the first, second, ... allocation of `call` fail, until it needs no more; how many those were.
int FailEveryAllocation(const std::function<shardstep_code()>& call) {
  // Protobuf describes its messages on first use, once, and is not made for that to fail.
  EXPECT_C_OK(call());
  int failed = 0;
  while (true) {
    allocations_left = failed;
    const shardstep_code code = call();
    const bool none_failed = allocations_left < std::numeric_limits<int64_t>::max() / 2;
    allocations_left = std::numeric_limits<int64_t>::max();
    if (none_failed) {
      EXPECT_C_OK(code);
      return failed;
    }
    // Some can be done without.
    if (code != SHARDSTEP_OK) {
      EXPECT_EQ(code, SHARDSTEP_RESOURCE_EXHAUSTED) << "allocation " << failed << ": " << shardstep_last_error();
    }
    ++failed;
  }
}

TEST(CMemoryTest, EstimatesReportIt) {
  const std::vector<shardstep_parameter> parameters = TestParameters();
  EXPECT_GT(FailEveryAllocation([&] {
              shardstep_memory memory = SHARDSTEP_MEMORY_INIT;
              return shardstep_estimate_memory("", parameters.data(), parameters.size(), 1, &memory);
            }),
            3);
}

// Creation, a step, reading: whichever allocation fails, the optimizer can be destroyed.
TEST(CMemoryTest, AWholeLifeEndsInOrderWhereverItFails) {
  const std::vector<shardstep_parameter> parameters = TestParameters();
  std::vector<float> values(4200);
  const auto live = [&]() -> shardstep_code {
    shardstep_optimizer* optimizer = nullptr;
    shardstep_code code = shardstep_optimizer_create(&kAlone, "", parameters.data(), parameters.size(), &optimizer);
    const COptimizer owner(optimizer);
    if (code == SHARDSTEP_OK) code = shardstep_initialize(optimizer, FillTestModel, nullptr);
    for (int32_t p = 0; p < 3 && code == SHARDSTEP_OK; ++p) {
      code = shardstep_gradient_writable(optimizer, p);
      if (code == SHARDSTEP_OK) code = shardstep_gradient_ready(optimizer, p);
    }
    if (code == SHARDSTEP_OK) code = shardstep_end_micro_step(optimizer);
    const shardstep_step_arguments arguments = SHARDSTEP_STEP_ARGUMENTS_INIT;
    if (code == SHARDSTEP_OK) code = shardstep_step(optimizer, &arguments);
    const void* record = nullptr;
    if (code == SHARDSTEP_OK) code = shardstep_finish_step(optimizer, &record, nullptr);
    int64_t elements = 0;
    if (code == SHARDSTEP_OK) {
      code = shardstep_read_state(optimizer, "matrix", SHARDSTEP_MASTER, values.data(), 4200, &elements);
    }
    if (code != SHARDSTEP_OK && optimizer != nullptr) {
      const std::string why = shardstep_last_error();
      EXPECT_NE(shardstep_end_micro_step(optimizer), SHARDSTEP_OK) << why;
    }
    return code;
  };
  EXPECT_GT(FailEveryAllocation(live), 100);
}

TEST(CMemoryTest, TheOtherRanksAreToldAtOnce) {
  std::promise<void> told;
  RunCRanks(2, [&](const shardstep_job& job) {
    const COptimizer optimizer = CreateInitialized(job, "wait_deadline_seconds: 600");
    ASSERT_NE(optimizer, nullptr);
    const shardstep_step_arguments arguments = SHARDSTEP_STEP_ARGUMENTS_INIT;
    if (job.rank == 0) {
      ASSERT_C_OK(shardstep_end_micro_step(optimizer.get()));
      allocations_left = 0;
      EXPECT_EQ(shardstep_step(optimizer.get(), &arguments), SHARDSTEP_RESOURCE_EXHAUSTED);
      told.get_future().wait();
      return;
    }
    shardstep_code code = shardstep_end_micro_step(optimizer.get());
    if (code == SHARDSTEP_OK) code = shardstep_step(optimizer.get(), &arguments);
    if (code == SHARDSTEP_OK) code = shardstep_finish_step(optimizer.get(), nullptr, nullptr);
    EXPECT_EQ(code, SHARDSTEP_ABORTED);
    EXPECT_THAT(shardstep_last_error(), testing::HasSubstr("rank 0"));
    EXPECT_EQ(shardstep_last_error_cause(), SHARDSTEP_INTERNAL);
    told.set_value();
  });
}

TEST(CMemoryTest, EvenTheMessageNeedsNone) {
  allocations_left = 0;
  const shardstep_code code = shardstep_set_away(nullptr, 1);
  allocations_left = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(code, SHARDSTEP_RESOURCE_EXHAUSTED);
  EXPECT_STREQ(shardstep_last_error(), "out of memory");
  EXPECT_EQ(shardstep_last_error_cause(), SHARDSTEP_RESOURCE_EXHAUSTED);
}

}  // namespace
}  // namespace shardstep
