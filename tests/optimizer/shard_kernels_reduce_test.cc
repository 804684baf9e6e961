// What Reduce learns about gradients: the norm and places, on every target.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernel_case.h"
#include "shardstep/optimizer/shard_kernels.h"
#include "tested_kernels.h"

namespace shardstep {
namespace {

constexpr uint16_t kInfinity = 0x7f80;
constexpr uint16_t kNan = 0x7fc0;
constexpr uint16_t kHuge = 0x7f7f;  // the largest finite bf16

class ReduceTest : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Targets, ReduceTest, ::testing::ValuesIn(TestedKernels::Names()),
                         [](const auto& target) { return target.param; });

// A scan of `start` by the target under test, after the reference has agreed.
ScanResult Scan(const std::string& target, const KernelCase& start, bool take_norm = true) {
  KernelCase expected = start;
  KernelCase actual = start;
  ReduceReference(expected.Reduce(take_norm));
  EXPECT_TRUE(TestedKernels::Create(target)->Reduce(actual.Reduce(take_norm)).ok());
  EXPECT_TRUE(SameResults(actual, expected));
  return actual.scan;
}

TEST_P(ReduceTest, C5SquaresThatOverflowFp32AreStillSummed) {
  KernelCase start({.sizes = {3000}, .slices = Slices(1)});
  for (Bf16& value : start.gradients[0].bf16) value = ToBf16(std::ldexp(-1.0f, 100));
  const ScanResult scan = Scan(GetParam(), start);
  EXPECT_EQ(scan.squared_norm.Round(), std::ldexp(3000.0, 200));
  EXPECT_EQ(scan.max_abs_bits, FloatBits(std::ldexp(1.0f, 100)));
  EXPECT_EQ(scan.first_nonfinite, kNowhere);
  EXPECT_EQ(scan.first_overflow, kNowhere);
}

TEST_P(ReduceTest, NormBlocksAddThirtyTwoLanesInOrder) {
  // Values of very different sizes, so that any other order of additions gives other bits.
  KernelCase start({.sizes = {1500}, .slices = Slices(1), .seed = 9});
  for (size_t i = 0; i < start.gradients[0].bf16.size(); ++i) {
    start.gradients[0].bf16[i].bits = static_cast<uint16_t>(0x3000 + (i * 7919) % 0x1800);
  }
  ExactSum expected;
  for (const auto& [begin, end] : {std::pair(0, 1024), std::pair(1024, 1500)}) {
    double lanes[32] = {};
    for (int i = begin; i < end; ++i) {
      const double g = ToFloat(start.gradients[0].bf16[i]);
      lanes[i % 32] += g * g;
    }
    for (const int half : {16, 8, 4, 2, 1}) {
      for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
    }
    expected.Add(lanes[0]);
  }
  EXPECT_EQ(Scan(GetParam(), start).squared_norm.Round(), expected.Round());
}

TEST_P(ReduceTest, FindsTheFirstNonFinitePlaceByMicroBatchThenElement) {
  // p0 has 2000 elements, p1 3000; first_micro_batch is 5. p1 starts at element 2048 of the shard.
  KernelCase start({.sizes = {2000, 3000}, .slices = Slices(3)});
  start.gradients[1].bf16[7].bits = kNan;
  start.gradients[0].bf16[2048 + 1030].bits = kInfinity;
  start.gradients[0].bf16[2048 + 1031].bits = kNan;
  const ScanResult scan = Scan(GetParam(), start);
  EXPECT_EQ(scan.first_nonfinite, MakePlace(5, 2000 + 1030));
  EXPECT_EQ(scan.first_overflow, kNowhere);
  EXPECT_EQ(scan.max_abs_bits, 0x7f800000u);
  // Blocks that hold a non-finite sum add nothing: without them, p0's second block and p1's first and third remain.
  KernelCase rest = start;
  for (auto& gradient : rest.gradients) {
    std::fill_n(gradient.bf16.begin(), 1024, Bf16{});
    std::fill_n(gradient.bf16.begin() + 3072, 1024, Bf16{});
  }
  EXPECT_EQ(scan.squared_norm.Round(), Scan(GetParam(), rest).squared_norm.Round());
}

TEST_P(ReduceTest, FindsTheFirstOverflowOfFiniteSlices) {
  KernelCase start({.sizes = {2000, 3000}, .slices = Slices(3)});
  for (const int64_t place : {int64_t{1999}, int64_t{1100}}) {
    start.gradients[0].bf16[place].bits = kHuge;
    start.gradients[1].bf16[place].bits = 0;
    start.gradients[2].bf16[place].bits = kHuge;
  }
  start.gradients[0].bf16[2048 + 2999].bits = 0xff7f;
  start.gradients[1].bf16[2048 + 2999].bits = 0xff7f;
  start.gradients[2].bf16[2048 + 2999].bits = kInfinity;
  const ScanResult scan = Scan(GetParam(), start);
  EXPECT_EQ(scan.first_overflow, MakePlace(6, 2000 + 2999));
  EXPECT_EQ(scan.first_nonfinite, MakePlace(7, 2000 + 2999));
}

TEST_P(ReduceTest, ANonFiniteAccumulatorIsNoNewOverflow) {
  for (const auto use : {AccumulatorUse::kIn, AccumulatorUse::kInPlace}) {
    KernelCase start({.sizes = {2000}, .slices = Slices(2), .accumulator = use});
    start.accumulator_in[3] = FloatFromBits(0x7f800000);
    ScanResult scan = Scan(GetParam(), start);
    EXPECT_EQ(scan.first_overflow, kNowhere);
    EXPECT_EQ(scan.first_nonfinite, kNowhere);
    EXPECT_EQ(scan.max_abs_bits, 0x7f800000u);
    // One that is nearly full does overflow, and is looked for from what it held.
    start.accumulator_in[1500] = FloatFromBits(0x7f7fffff);
    start.gradients[0].bf16[1500].bits = 0;
    start.gradients[1].bf16[1500].bits = kHuge;
    EXPECT_EQ(Scan(GetParam(), start).first_overflow, MakePlace(6, 1500));
  }
}

TEST_P(ReduceTest, WithoutNormOnlyPlacesAreSearched) {
  KernelCase start({.sizes = {2000}, .accumulator = AccumulatorUse::kOut});
  start.gradients[1].bf16[1700].bits = kInfinity;
  const ScanResult scan = Scan(GetParam(), start, /*take_norm=*/false);
  EXPECT_EQ(scan.first_nonfinite, MakePlace(6, 1700));
  EXPECT_EQ(scan.max_abs_bits, 0u);
  EXPECT_EQ(scan.squared_norm.Round(), 0);
}

TEST_P(ReduceTest, NormWeightsMultiplyBlockSums) {
  KernelCase start({.sizes = {1500, 1500}, .slices = Slices(1)});
  for (Bf16& value : start.gradients[0].bf16) value = ToBf16(1.5f);
  start.segments[0].norm_weight = 1.0 / 3;
  start.segments[1].norm_weight = 0;
  ExactSum expected;
  expected.Add(1024 * 2.25 * (1.0 / 3));
  expected.Add(476 * 2.25 * (1.0 / 3));
  EXPECT_EQ(Scan(GetParam(), start).squared_norm.Round(), expected.Round());
  // What does not count in the norm is looked at all the same.
  start.gradients[0].bf16[2048 + 5] = ToBf16(7.0f);
  start.gradients[0].bf16[2048 + 6].bits = kInfinity;
  EXPECT_EQ(Scan(GetParam(), start).first_nonfinite, MakePlace(5, 1506));
  start.gradients[0].bf16[2048 + 6].bits = 0;
  EXPECT_EQ(Scan(GetParam(), start).max_abs_bits, FloatBits(7.0f));
}

TEST_P(ReduceTest, PlacesInPartialSlicesAreNotNamedAgain) {
  KernelCase start({.sizes = {2000},
                    .slices = {{.dtype = DType::kFp32, .rank = 0, .ranks = 2, .partial = true},
                               {.rank = 2, .ranks = 2, .partial = true},
                               {.rank = 4}},
                    .sum_group = 2,
                    .first_micro_batch = 6});
  start.gradients[0].fp32[11] = INFINITY;
  start.gradients[1].bf16[10].bits = kNan;
  ScanResult scan = Scan(GetParam(), start);
  EXPECT_EQ(scan.first_nonfinite, kNowhere);
  EXPECT_EQ(scan.first_overflow, kNowhere);
  EXPECT_EQ(scan.max_abs_bits, 0x7f800000u);
  start.gradients[2].bf16[12].bits = kNan;
  EXPECT_EQ(Scan(GetParam(), start).first_nonfinite, MakePlace(10, 12));
}

TEST_P(ReduceTest, AGroupThatOverflowsIsAtItsSliceAndOneThatOverflowsTheSumAtItsLast) {
  // Groups of 3 from micro-batch 6 on.
  KernelCase start({.sizes = {2000}, .slices = Slices(6), .sum_group = 3, .first_micro_batch = 6});
  const auto set = [&start](int64_t i, std::vector<uint16_t> bits) {
    for (size_t j = 0; j < bits.size(); ++j) start.gradients[j].bf16[i].bits = bits[j];
  };
  set(1400, {0, kHuge, 0, kHuge, 0, 0});
  EXPECT_EQ(Scan(GetParam(), start).first_overflow, MakePlace(11, 1400));
  set(1401, {0, 0, 0, kHuge, kHuge, 0});
  EXPECT_EQ(Scan(GetParam(), start).first_overflow, MakePlace(10, 1401));
  // A slice that is a whole group: the last of its micro-batches.
  KernelCase whole({.sizes = {2000},
                    .slices = {{.rank = 0, .ranks = 3, .partial = true}, {.rank = 3, .ranks = 3, .partial = true}},
                    .sum_group = 3,
                    .first_micro_batch = 6});
  whole.gradients[0].bf16[3].bits = kHuge;
  whole.gradients[1].bf16[3].bits = kHuge;
  EXPECT_EQ(Scan(GetParam(), whole).first_overflow, MakePlace(11, 3));
}

TEST_P(ReduceTest, AGroupThatIsOpenInTheEndIsSearchedToo) {
  KernelCase start({.sizes = {2000},
                    .slices = Slices(2),
                    .accumulator = AccumulatorUse::kOut,
                    .sum_group = 4,
                    .first_micro_batch = 4,
                    .closes = false});
  start.gradients[1].bf16[1300].bits = kInfinity;
  const ScanResult scan = Scan(GetParam(), start);
  EXPECT_EQ(scan.first_nonfinite, MakePlace(5, 1300));
  EXPECT_EQ(scan.max_abs_bits, 0u) << "no group has ended";
}

TEST_P(ReduceTest, TakesEverySubsetOfOutputs) {
  for (const bool with_scan : {false, true}) {
    for (const bool rounds : {false, true}) {
      for (const auto use : {AccumulatorUse::kIn, AccumulatorUse::kInAndOut, AccumulatorUse::kInPlace}) {
        const KernelCase start({.sizes = {1100}, .accumulator = use, .rounds = rounds});
        KernelCase expected = start;
        KernelCase actual = start;
        ReduceReference(expected.Reduce(with_scan, with_scan));
        ASSERT_TRUE(TestedKernels::Create(GetParam())->Reduce(actual.Reduce(with_scan, with_scan)).ok());
        EXPECT_TRUE(SameResults(actual, expected));
        EXPECT_EQ(actual.rounded_out[0] == Bf16{0x4321}, !rounds);
        EXPECT_EQ(actual.scan.max_abs_bits == 0, !with_scan);
      }
    }
  }
}

}  // namespace
}  // namespace shardstep
