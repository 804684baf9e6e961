#include "shardstep/optimizer/shard_kernels.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xmmintrin.h>

#include <cmath>
#include <iostream>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "kernel_case.h"
#include "shardstep/comm/host_stream.h"
#include "shardstep/optimizer/cpu_block_kernels.h"

namespace shardstep {
namespace {

using ::testing::HasSubstr;

constexpr uint16_t kInfinity = 0x7f80;
constexpr uint16_t kNan = 0x7fc0;
constexpr uint16_t kHuge = 0x7f7f;  // the largest finite bf16

std::vector<std::string> RunnableTargets() {
  std::vector<std::string> names;
  for (const CpuTarget& target : CpuTargets()) {
    if (target.supported) names.push_back(target.name);
  }
  return names;
}

std::unique_ptr<ShardKernels> Kernels(const std::string& target, int threads = 1) {
  auto kernels = CreateCpuShardKernels(threads, target);
  EXPECT_TRUE(kernels.ok()) << kernels.status();
  EXPECT_EQ((*kernels)->target(), target);
  return *std::move(kernels);
}

// Runs both passes on copies of `start` and on the reference, and compares every bit.
::testing::AssertionResult JudgedByReference(ShardKernels& kernels, const KernelCase& start) {
  KernelCase expected = start;
  KernelCase actual = start;
  InlineStream stream;
  ReduceReference(expected.Reduce());
  EXPECT_TRUE(kernels.Reduce(actual.Reduce(), stream).ok());
  if (auto same = SameResults(actual, expected); !same) return same << " after Reduce";
  UpdateReference(expected.Update());
  EXPECT_TRUE(kernels.Update(actual.Update(), stream).ok());
  EXPECT_TRUE(stream.status().ok()) << stream.status();
  return SameResults(actual, expected);
}

TEST(CpuTargetsTest, EveryCompiledTargetIsRunOrNamed) {
  std::set<std::string> names;
  std::set<const void*> functions;
  for (const CpuBlockKernels& kernels : AllCpuBlockKernels()) {
    names.insert(kernels.target);
    functions.insert(reinterpret_cast<const void*>(kernels.reduce));
    functions.insert(reinterpret_cast<const void*>(kernels.update));
  }
  EXPECT_EQ(functions.size(), 2 * names.size()) << "two targets share code";
  for (const CpuTarget& target : CpuTargets()) {
    if (target.supported) continue;
    std::cout << "NOT RUN: this CPU lacks " << target.name << "\n";
    const auto kernels = CreateCpuShardKernels(1, target.name);
    EXPECT_EQ(kernels.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(kernels.status().message()), HasSubstr(target.name));
  }
  EXPECT_FALSE(RunnableTargets().empty());
  EXPECT_EQ((*CreateCpuShardKernels(1))->target(), RunnableTargets().front()) << "the best is the default";
}

// N5, CPU part.
class EveryTargetTest : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Targets, EveryTargetTest, ::testing::ValuesIn(RunnableTargets()),
                         [](const auto& target) { return target.param; });

TEST_P(EveryTargetTest, N5EqualsTheReferenceForAllSliceCountsAndAccumulators) {
  const auto kernels = Kernels(GetParam());
  for (int slices = 0; slices <= 9; ++slices) {
    for (const auto use : {AccumulatorUse::kNone, AccumulatorUse::kIn, AccumulatorUse::kOut, AccumulatorUse::kInAndOut,
                           AccumulatorUse::kInPlace}) {
      for (const Values values : {Values::kPlain, Values::kNasty}) {
        const KernelCase start({.sizes = {1, 3000, 0, 1024, 77},
                                .slices = slices,
                                .values = values,
                                .accumulator = use,
                                .seed = static_cast<uint32_t>(slices + 1)});
        ASSERT_TRUE(JudgedByReference(*kernels, start)) << slices << " slices, accumulator " << static_cast<int>(use);
      }
    }
  }
}

TEST_P(EveryTargetTest, N5EqualsTheReferenceForTailsOfEveryLength) {
  const auto kernels = Kernels(GetParam());
  for (int64_t size = 1; size <= 1024; ++size) {
    const KernelCase start({.sizes = {size},
                            .values = size % 2 == 0 ? Values::kPlain : Values::kNasty,
                            .accumulator = size % 3 == 0 ? AccumulatorUse::kInPlace : AccumulatorUse::kOut,
                            .seed = static_cast<uint32_t>(size)});
    ASSERT_TRUE(JudgedByReference(*kernels, start)) << size;
  }
}

TEST_P(EveryTargetTest, EqualsTheReferenceForAnyAlignmentAndCopies) {
  const auto kernels = Kernels(GetParam());
  for (int64_t shift = 0; shift <= 17; ++shift) {
    for (const int destinations : {0, 1, 3}) {
      const KernelCase start({.sizes = {2048 + 9},
                              .accumulator = AccumulatorUse::kOut,
                              .destinations = destinations,
                              .misalignment_elements = shift});
      ASSERT_TRUE(JudgedByReference(*kernels, start)) << shift;
    }
  }
}

TEST_P(EveryTargetTest, RoundsEveryUpperHalfOfFp32ToBf16) {
  // Without gradient and decay the master stays as it is (but for -0 and infinity), and the weights are its rounding:
  // ties and their neighbours, NaNs with payloads in the lower half only, values that round up to infinity.
  const auto kernels = Kernels(GetParam());
  for (const uint32_t low : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
    KernelCase actual({.sizes = {1 << 16}, .slices = 0});
    for (uint32_t high = 0; high < 1 << 16; ++high) actual.master[high] = FloatFromBits(high << 16 | low);
    actual.first_moment.assign(1 << 16, 0.0f);
    actual.second_moment.assign(1 << 16, 1.0f);
    actual.scalars.groups[0].lr_weight_decay = 0;
    InlineStream stream;
    ASSERT_TRUE(kernels->Update(actual.Update(), stream).ok());
    for (uint32_t high = 0; high < 1 << 16; ++high) {
      const uint32_t bits = FloatBits(actual.master[high]);
      uint32_t expected = bits >> 16;
      if ((bits & 0x7fffffff) > 0x7f800000) {
        expected = 0x7fc0;
      } else {
        ASSERT_TRUE(bits == (high << 16 | low) || bits == 0);
        if (low > 0x8000 || (low == 0x8000 && high % 2 == 1)) ++expected;
      }
      ASSERT_EQ(actual.weights[0][high].bits, expected) << std::hex << bits;
    }
  }
}

TEST_P(EveryTargetTest, N5KeepsDenormalsAndTheCallersFlags) {
  const uint32_t before = _mm_getcsr();
  const auto kernels = Kernels(GetParam(), 2);
  // Denormals everywhere: sums of tiny gradients, tiny moments, and a second moment that underflows.
  KernelCase start({.sizes = {100'000, 33}, .accumulator = AccumulatorUse::kOut});
  for (size_t i = 0; i < start.master.size(); ++i) {
    start.gradients[0][i].bits = static_cast<uint16_t>(i % 0x90);
    start.gradients[1][i].bits = static_cast<uint16_t>(0x8000 | i % 0x70);
    start.master[i] = FloatFromBits(static_cast<uint32_t>(i) * 77 % 0x01000000);
    start.first_moment[i] = FloatFromBits(static_cast<uint32_t>(i) * 13 % 0x00900000);
    start.second_moment[i] = FloatFromBits(static_cast<uint32_t>(i) % 50);
  }
  KernelCase expected = start;
  ReduceReference(expected.Reduce());
  UpdateReference(expected.Update());
  // Flush to zero, denormals are zero, round toward zero.
  constexpr uint32_t kHostile = 0x1f80 | 0x8040 | 0x6000;
  KernelCase actual = start;
  KernelCase reference = start;
  InlineStream stream;
  _mm_setcsr(kHostile);
  const absl::Status reduced = kernels->Reduce(actual.Reduce(), stream);
  const absl::Status updated = kernels->Update(actual.Update(), stream);
  const uint32_t after_kernels = _mm_getcsr();
  ReduceReference(reference.Reduce());
  UpdateReference(reference.Update());
  const uint32_t after_reference = _mm_getcsr();
  _mm_setcsr(before);
  ASSERT_TRUE(reduced.ok() && updated.ok());
  EXPECT_EQ(after_kernels, kHostile);
  EXPECT_EQ(after_reference, kHostile);
  EXPECT_TRUE(SameResults(actual, expected));
  EXPECT_TRUE(SameResults(reference, expected));
}

TEST_P(EveryTargetTest, SameBitsForAnyNumberOfThreads) {
  for (const Values values : {Values::kPlain, Values::kNasty}) {
    const KernelCase start(
        {.sizes = {150'000, 1, 2, 3, 5000, 1024, 90'001}, .values = values, .accumulator = AccumulatorUse::kInPlace});
    for (const int threads : {1, 2, 3}) {
      const auto kernels = Kernels(GetParam(), threads);
      ASSERT_TRUE(JudgedByReference(*kernels, start)) << threads;
    }
  }
}

// A scan of `start` by the target under test, after the reference has agreed.
ScanResult Scan(const std::string& target, const KernelCase& start, bool take_norm = true) {
  KernelCase expected = start;
  KernelCase actual = start;
  InlineStream stream;
  ReduceReference(expected.Reduce(take_norm));
  EXPECT_TRUE(Kernels(target)->Reduce(actual.Reduce(take_norm), stream).ok());
  EXPECT_TRUE(SameResults(actual, expected));
  return actual.scan;
}

TEST_P(EveryTargetTest, C5SquaresThatOverflowFp32AreStillSummed) {
  KernelCase start({.sizes = {3000}, .slices = 1});
  for (Bf16& value : start.gradients[0]) value = ToBf16(std::ldexp(-1.0f, 100));
  const ScanResult scan = Scan(GetParam(), start);
  EXPECT_EQ(scan.squared_norm.Round(), std::ldexp(3000.0, 200));
  EXPECT_EQ(scan.max_abs_bits, FloatBits(std::ldexp(1.0f, 100)));
  EXPECT_EQ(scan.first_nonfinite, kNowhere);
  EXPECT_EQ(scan.first_overflow, kNowhere);
}

TEST_P(EveryTargetTest, NormBlocksAddThirtyTwoLanesInOrder) {
  // Values of very different sizes, so that any other order of additions gives other bits.
  KernelCase start({.sizes = {1500}, .slices = 1, .seed = 9});
  for (size_t i = 0; i < start.gradients[0].size(); ++i) {
    start.gradients[0][i].bits = static_cast<uint16_t>(0x3000 + (i * 7919) % 0x1800);
  }
  ExactSum expected;
  for (const auto& [begin, end] : {std::pair(0, 1024), std::pair(1024, 1500)}) {
    double lanes[32] = {};
    for (int i = begin; i < end; ++i) {
      const double g = ToFloat(start.gradients[0][i]);
      lanes[i % 32] += g * g;
    }
    for (const int half : {16, 8, 4, 2, 1}) {
      for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
    }
    expected.Add(lanes[0]);
  }
  EXPECT_EQ(Scan(GetParam(), start).squared_norm.Round(), expected.Round());
}

TEST_P(EveryTargetTest, FindsTheFirstNonFinitePlaceByMicroBatchThenElement) {
  // p0 has 2000 elements, p1 3000; first_micro_batch is 5. p1 starts at element 2048 of the shard.
  KernelCase start({.sizes = {2000, 3000}, .slices = 3});
  start.gradients[1][7].bits = kNan;
  start.gradients[0][2048 + 1030].bits = kInfinity;
  start.gradients[0][2048 + 1031].bits = kNan;
  const ScanResult scan = Scan(GetParam(), start);
  EXPECT_EQ(scan.first_nonfinite, MakePlace(5, 2000 + 1030));
  EXPECT_EQ(scan.first_overflow, kNowhere);
  EXPECT_EQ(scan.max_abs_bits, 0x7f800000u);
  // Blocks that hold a non-finite sum add nothing: without them, p0's second block and p1's first and third remain.
  KernelCase rest = start;
  for (auto& gradient : rest.gradients) {
    std::fill_n(gradient.begin(), 1024, Bf16{});
    std::fill_n(gradient.begin() + 3072, 1024, Bf16{});
  }
  EXPECT_EQ(scan.squared_norm.Round(), Scan(GetParam(), rest).squared_norm.Round());
}

TEST_P(EveryTargetTest, FindsTheFirstOverflowOfFiniteSlices) {
  KernelCase start({.sizes = {2000, 3000}, .slices = 3});
  for (const int64_t place : {int64_t{1999}, int64_t{1100}}) {
    start.gradients[0][place].bits = kHuge;
    start.gradients[1][place].bits = 0;
    start.gradients[2][place].bits = kHuge;
  }
  start.gradients[0][2048 + 2999].bits = 0xff7f;
  start.gradients[1][2048 + 2999].bits = 0xff7f;
  start.gradients[2][2048 + 2999].bits = kInfinity;
  const ScanResult scan = Scan(GetParam(), start);
  EXPECT_EQ(scan.first_overflow, MakePlace(6, 2000 + 2999));
  EXPECT_EQ(scan.first_nonfinite, MakePlace(7, 2000 + 2999));
}

TEST_P(EveryTargetTest, ANonFiniteAccumulatorIsNoNewOverflow) {
  for (const auto use : {AccumulatorUse::kIn, AccumulatorUse::kInPlace}) {
    KernelCase start({.sizes = {2000}, .slices = 2, .accumulator = use});
    start.accumulator_in[3] = FloatFromBits(0x7f800000);
    ScanResult scan = Scan(GetParam(), start);
    EXPECT_EQ(scan.first_overflow, kNowhere);
    EXPECT_EQ(scan.first_nonfinite, kNowhere);
    EXPECT_EQ(scan.max_abs_bits, 0x7f800000u);
    // One that is nearly full does overflow, and is looked for from what it held.
    start.accumulator_in[1500] = FloatFromBits(0x7f7fffff);
    start.gradients[0][1500].bits = 0;
    start.gradients[1][1500].bits = kHuge;
    EXPECT_EQ(Scan(GetParam(), start).first_overflow, MakePlace(6, 1500));
  }
}

TEST_P(EveryTargetTest, WithoutNormOnlyPlacesAreSearched) {
  KernelCase start({.sizes = {2000}, .accumulator = AccumulatorUse::kOut});
  start.gradients[1][1700].bits = kInfinity;
  const ScanResult scan = Scan(GetParam(), start, /*take_norm=*/false);
  EXPECT_EQ(scan.first_nonfinite, MakePlace(6, 1700));
  EXPECT_EQ(scan.max_abs_bits, 0u);
  EXPECT_EQ(scan.squared_norm.Round(), 0);
}

TEST_P(EveryTargetTest, SkippedUpdateWritesNothing) {
  KernelCase start({.sizes = {2000}});
  start.scalars.apply = false;
  KernelCase actual = start;
  InlineStream stream;
  ASSERT_TRUE(Kernels(GetParam())->Update(actual.Update(), stream).ok());
  EXPECT_TRUE(SameResults(actual, start));
  UpdateReference(actual.Update());
  EXPECT_TRUE(SameResults(actual, start));
}

TEST(ShardKernelsTest, LaunchesAreOrderedByTheStreamAndReadScalarsWhenTheyRun) {
  const auto kernels = *CreateCpuShardKernels(2);
  KernelCase expected({.sizes = {100'000}, .accumulator = AccumulatorUse::kOut});
  KernelCase actual = expected;
  expected.scalars.scale = 2.0f;
  ReduceReference(expected.Reduce());
  UpdateReference(expected.Update());
  ThreadStream stream;
  // Both before the first launch: they share the list of slices.
  const ReduceArgs reduce = actual.Reduce();
  const UpdateArgs update = actual.Update();
  ASSERT_TRUE(kernels->Reduce(reduce, stream).ok());
  stream.Enqueue("decide", [&] {
    actual.scalars.scale = 2.0f;
    return absl::OkStatus();
  });
  ASSERT_TRUE(kernels->Update(update, stream).ok());
  ASSERT_TRUE(stream.Synchronize(stream.Record()).ok());
  EXPECT_TRUE(SameResults(actual, expected));
}

TEST(ShardKernelsTest, TwoStreamsMayLaunchAtOnce) {
  const auto kernels = *CreateCpuShardKernels(3);
  const KernelCase start({.sizes = {300'000}, .accumulator = AccumulatorUse::kOut});
  KernelCase expected = start;
  for (int i = 0; i < 5; ++i) ReduceReference(expected.Reduce());
  std::vector<KernelCase> actual(2, start);
  ThreadStream streams[2];
  for (int i = 0; i < 5; ++i) {
    for (int s = 0; s < 2; ++s) ASSERT_TRUE(kernels->Reduce(actual[s].Reduce(), streams[s]).ok());
    for (auto& stream : streams) ASSERT_TRUE(stream.Synchronize(stream.Record()).ok());
  }
  for (const KernelCase& result : actual) EXPECT_TRUE(SameResults(result, expected));
}

class OtherStream : public Stream {
 public:
  Event Record() override { return {}; }
  void Wait(const Event&) override {}
  absl::Status Synchronize(const Event&) override { return absl::OkStatus(); }
  absl::Status status() const override { return absl::OkStatus(); }
};

TEST(ShardKernelsTest, RefusesWhatItCannotRun) {
  const auto message = [](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(message(CreateCpuShardKernels(0).status()), HasSubstr("threads = 0"));
  EXPECT_THAT(message(CreateCpuShardKernels(1, "MMX").status()), HasSubstr("\"MMX\" is unknown"));
  const auto kernels = *CreateCpuShardKernels(1);
  KernelCase work({.sizes = {10}});
  OtherStream other;
  EXPECT_THAT(message(kernels->Reduce(work.Reduce(), other)), HasSubstr("host stream"));
  EXPECT_THAT(message(kernels->Update(work.Update(), other)), HasSubstr("host stream"));
  InlineStream stream;
  ReduceArgs reduce = work.Reduce();
  reduce.layout = nullptr;
  EXPECT_THAT(message(kernels->Reduce(reduce, stream)), HasSubstr("layout"));
  UpdateArgs update = work.Update();
  update.scalars = nullptr;
  EXPECT_THAT(message(kernels->Update(update, stream)), HasSubstr("scalars"));
  update = work.Update();
  update.master = nullptr;
  EXPECT_THAT(message(kernels->Update(update, stream)), HasSubstr("master"));
  work.scalars.groups.clear();
  EXPECT_TRUE(kernels->Update(work.Update(), stream).ok());
  EXPECT_EQ(stream.status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace shardstep
