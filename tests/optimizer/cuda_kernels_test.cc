// N5, CUDA part: the bodies of the kernels, on the host, give the reference's bits. What kernels learn about gradients
// and what they touch: shard_kernels_reduce_test, shard_kernels_access_test.
#include "shardstep/optimizer/cuda_kernels.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernel_case.h"
#include "tested_kernels.h"

namespace shardstep {
namespace {

TEST(CudaKernelsTest, N5EqualsTheReferenceForAllSliceCountsAndAccumulators) {
  HostCuda cuda;
  for (int slices = 0; slices <= 11; ++slices) {
    for (const DType dtype : {DType::kBf16, DType::kFp32}) {
      for (const auto use : {AccumulatorUse::kNone, AccumulatorUse::kIn, AccumulatorUse::kOut,
                             AccumulatorUse::kInAndOut, AccumulatorUse::kInPlace}) {
        for (const Values values : {Values::kPlain, Values::kNasty}) {
          const KernelCase start({.sizes = {1, 3000, 0, 1024, 77},
                                  .slices = Slices(slices, dtype),
                                  .values = values,
                                  .accumulator = use,
                                  .rounds = true,
                                  .seed = static_cast<uint32_t>(slices + 1)});
          ASSERT_TRUE(cuda.JudgedByReference(start)) << slices << " slices, accumulator " << static_cast<int>(use);
        }
      }
    }
  }
}

TEST(CudaKernelsTest, N5EqualsTheReferenceForEveryRuleMasterAndRounding) {
  HostCuda cuda;
  for (const NamedUpdate& update : AllUpdates()) {
    for (const Values values : {Values::kPlain, Values::kNasty}) {
      for (const bool nesterov : {false, true}) {
        // Places of the generator's draws, and an alignment that no vector has.
        for (int64_t shift = 0; shift < 8; ++shift) {
          const KernelCase start({.sizes = {1, 3000, 0, 1024, 77},
                                  .slices = Slices(2, shift % 3 == 2 ? DType::kFp32 : DType::kBf16),
                                  .values = values,
                                  .kind = update.kind,
                                  .weight_dtype = update.weight_dtype,
                                  .nesterov = nesterov,
                                  .misalignment_elements = shift == 5 ? 1 : 0,
                                  .global_begin_element = (int64_t{1} << 35) - 1000 + shift,
                                  .seed = static_cast<uint32_t>(shift)});
          ASSERT_TRUE(cuda.JudgedByReference(start)) << update.name << ", " << shift;
        }
      }
    }
  }
}

TEST(CudaKernelsTest, EqualsTheReferenceForGroupsOfMicroBatches) {
  HostCuda cuda;
  for (const int64_t sum_group : {2, 3}) {
    for (int64_t first = 0; first < 6; ++first) {
      for (int slices = 0; slices <= 5; ++slices) {
        for (const auto use : {AccumulatorUse::kNone, AccumulatorUse::kInAndOut, AccumulatorUse::kInPlace}) {
          for (const bool closes : {false, true}) {
            const KernelCase start({.sizes = {350, 1024},
                                    .slices = Slices(slices),
                                    .values = first % 2 == 0 ? Values::kPlain : Values::kNasty,
                                    .accumulator = use,
                                    .sum_group = sum_group,
                                    .first_micro_batch = first,
                                    .closes = closes,
                                    .seed = static_cast<uint32_t>(slices)});
            ASSERT_TRUE(cuda.JudgedByReference(start)) << "groups of " << sum_group << " from " << first;
          }
        }
      }
    }
  }
}

TEST(CudaKernelsTest, EqualsTheReferenceForPartialSumsAndMixedDtypes) {
  HostCuda cuda;
  const std::vector<Slice> slices = {{.rank = 0},
                                     {.rank = 1, .ranks = 2, .partial = true},
                                     {.dtype = DType::kFp32, .rank = 3, .ranks = 2, .partial = true},
                                     {.dtype = DType::kFp32, .rank = 5, .partial = true},
                                     {.rank = 6}};
  for (const int64_t sum_group : {1, 2}) {
    for (const Values values : {Values::kPlain, Values::kNasty}) {
      for (const bool closes : {false, true}) {
        const int count = values == Values::kPlain ? 3 : 5;
        const KernelCase start({.sizes = {3000, 77},
                                .slices = {slices.begin(), slices.begin() + count},
                                .values = values,
                                .accumulator = AccumulatorUse::kInPlace,
                                .sum_group = sum_group,
                                .closes = closes});
        ASSERT_TRUE(cuda.JudgedByReference(start)) << sum_group;
      }
    }
  }
}

TEST(CudaKernelsTest, N5EqualsTheReferenceForTailsOfEveryLength) {
  HostCuda cuda;
  const std::vector<NamedUpdate> updates = AllUpdates();
  for (int64_t size = 1; size <= 1024; ++size) {
    const NamedUpdate& update = updates[size % updates.size()];
    const KernelCase start({.sizes = {size},
                            .values = size % 2 == 0 ? Values::kPlain : Values::kNasty,
                            .accumulator = size % 3 == 0 ? AccumulatorUse::kInPlace : AccumulatorUse::kOut,
                            .sum_group = 1 + size % 2,
                            .rounds = true,
                            .kind = update.kind,
                            .weight_dtype = update.weight_dtype,
                            .global_begin_element = size,
                            .seed = static_cast<uint32_t>(size)});
    ASSERT_TRUE(cuda.JudgedByReference(start)) << size;
  }
}

TEST(CudaKernelsTest, EqualsTheReferenceForAnyAlignment) {
  HostCuda cuda;
  for (const DType dtype : {DType::kBf16, DType::kFp32}) {
    for (int64_t shift = 0; shift <= 17; ++shift) {
      const KernelCase start({.sizes = {2048 + 9},
                              .slices = Slices(2, dtype),
                              .accumulator = AccumulatorUse::kOut,
                              .rounds = true,
                              .misalignment_elements = shift});
      ASSERT_TRUE(cuda.JudgedByReference(start)) << shift;
    }
  }
}

TEST(CudaKernelsTest, SameBitsInEveryOrderAndForAnyNumberOfBlocks) {
  for (const Values values : {Values::kPlain, Values::kNasty}) {
    // More parameters than a bisection can get wrong unseen.
    std::vector<int64_t> sizes = {150'000, 1, 2, 3, 5000, 1024, 90'001};
    for (int64_t i = 0; i < 30; ++i) sizes.push_back(1 + i * 97);
    const KernelCase start({.sizes = sizes,
                            .values = values,
                            .accumulator = AccumulatorUse::kInPlace,
                            .kind = {.master = Master::kNone, .rounding = Rounding::kStochastic}});
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      for (const int blocks : {1, 2, 7, 1000}) {
        HostCuda cuda({.order_seed = seed, .filling_blocks = blocks});
        ASSERT_TRUE(cuda.JudgedByReference(start)) << seed << ", " << blocks;
      }
    }
  }
}

TEST(CudaKernelsTest, ASumOfAsManySlicesAsALaunchTakes) {
  HostCuda cuda;
  for (const int64_t sum_group : {1, 32}) {
    const KernelCase start({.sizes = {1500}, .slices = Slices(CudaSumSchedule::kMaxAdditions), .sum_group = sum_group});
    ASSERT_TRUE(cuda.JudgedByReference(start)) << sum_group;
  }
}

TEST(CudaKernelsTest, SkippedUpdateWritesNothing) {
  for (const NamedUpdate& update : AllUpdates()) {
    KernelCase start({.sizes = {2000}, .kind = update.kind, .weight_dtype = update.weight_dtype});
    start.scalars.apply = false;
    KernelCase actual = start;
    ASSERT_TRUE(HostCuda().Update(actual.Update()).ok());
    EXPECT_TRUE(SameResults(actual, start)) << update.name;
  }
}

}  // namespace
}  // namespace shardstep
