#include "shardstep/optimizer/shard_kernels.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xmmintrin.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "kernel_case.h"
#include "shardstep/comm/host_stream.h"
#include "shardstep/optimizer/cpu_block_kernels.h"
#include "shardstep/optimizer/master_weights.h"

namespace shardstep {
namespace {

using ::testing::HasSubstr;

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
  const auto kernels = KernelsOf(GetParam());
  for (int slices = 0; slices <= 9; ++slices) {
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
          ASSERT_TRUE(JudgedByReference(*kernels, start)) << slices << " slices, accumulator " << static_cast<int>(use);
        }
      }
    }
  }
}

TEST_P(EveryTargetTest, N5EqualsTheReferenceForEveryRuleMasterAndRounding) {
  const auto kernels = KernelsOf(GetParam());
  for (const NamedUpdate& update : AllUpdates()) {
    for (const Values values : {Values::kPlain, Values::kNasty}) {
      for (const bool nesterov : {false, true}) {
        for (int destinations = 1; destinations <= 3; ++destinations) {
          const KernelCase start({.sizes = {1, 3000, 0, 1024, 77},
                                  .values = values,
                                  .kind = update.kind,
                                  .weight_dtype = update.weight_dtype,
                                  .nesterov = nesterov,
                                  .destinations = destinations,
                                  .misalignment_elements = destinations == 2 ? 1 : 0,
                                  .global_begin_element = (int64_t{1} << 35) - 1000,
                                  .seed = static_cast<uint32_t>(destinations)});
          ASSERT_TRUE(JudgedByReference(*kernels, start)) << update.name << ", " << destinations;
        }
      }
    }
  }
}

TEST_P(EveryTargetTest, EqualsTheReferenceForGroupsOfMicroBatches) {
  const auto kernels = KernelsOf(GetParam());
  for (const int64_t sum_group : {2, 3}) {
    for (int64_t first = 0; first < 6; ++first) {
      for (int slices = 0; slices <= 5; ++slices) {
        for (const auto use : {AccumulatorUse::kNone, AccumulatorUse::kInAndOut, AccumulatorUse::kInPlace}) {
          for (const bool closes : {false, true}) {
            const KernelCase start({.sizes = {350},
                                    .slices = Slices(slices),
                                    .values = first % 2 == 0 ? Values::kPlain : Values::kNasty,
                                    .accumulator = use,
                                    .sum_group = sum_group,
                                    .first_micro_batch = first,
                                    .closes = closes,
                                    .seed = static_cast<uint32_t>(slices)});
            ASSERT_TRUE(JudgedByReference(*kernels, start)) << "groups of " << sum_group << " from " << first;
          }
        }
      }
    }
  }
}

TEST_P(EveryTargetTest, EqualsTheReferenceForPartialSumsAndMixedDtypes) {
  const auto kernels = KernelsOf(GetParam());
  const std::vector<Slice> slices = {{.rank = 0},
                                     {.rank = 1, .ranks = 2, .partial = true},
                                     {.dtype = DType::kFp32, .rank = 3, .ranks = 2, .partial = true},
                                     {.dtype = DType::kFp32, .rank = 5, .partial = true},
                                     {.rank = 6}};
  for (const int64_t sum_group : {1, 2}) {
    for (const Values values : {Values::kPlain, Values::kNasty}) {
      for (const bool closes : {false, true}) {
        // With the first three, a whole group is the last.
        const int count = values == Values::kPlain ? 3 : 5;
        const KernelCase start({.sizes = {3000, 77},
                                .slices = {slices.begin(), slices.begin() + count},
                                .values = values,
                                .accumulator = AccumulatorUse::kInPlace,
                                .sum_group = sum_group,
                                .closes = closes});
        ASSERT_TRUE(JudgedByReference(*kernels, start)) << sum_group;
      }
    }
  }
}

TEST_P(EveryTargetTest, N5EqualsTheReferenceForTailsOfEveryLength) {
  const auto kernels = KernelsOf(GetParam());
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
    ASSERT_TRUE(JudgedByReference(*kernels, start)) << size;
  }
}

TEST_P(EveryTargetTest, EqualsTheReferenceForAnyAlignmentAndCopies) {
  const auto kernels = KernelsOf(GetParam());
  for (int64_t shift = 0; shift <= 17; ++shift) {
    for (const int destinations : {0, 1, 3}) {
      const KernelCase start({.sizes = {2048 + 9},
                              .accumulator = AccumulatorUse::kOut,
                              .rounds = true,
                              .destinations = destinations,
                              .misalignment_elements = shift});
      ASSERT_TRUE(JudgedByReference(*kernels, start)) << shift;
    }
  }
}

TEST_P(EveryTargetTest, RoundsEveryUpperHalfOfFp32ToBf16) {
  // Without gradient and decay the master stays as it is (but for -0 and infinity), and the weights are its rounding:
  // ties and their neighbours, NaNs with payloads in the lower half only, values that round up to infinity.
  const auto kernels = KernelsOf(GetParam());
  for (const Master master : {Master::kFp32, Master::kSplit}) {
    for (const uint32_t low : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      KernelCase actual({.sizes = {1 << 16}, .slices = {}, .kind = {.master = master}});
      for (uint32_t high = 0; high < 1 << 16; ++high) {
        const float value = FloatFromBits(high << 16 | low);
        actual.master[high] = value;
        actual.weights[0].bf16[high] = Split(value).weight;
        actual.remainder[high] = Split(value).remainder;
      }
      actual.first_moment.assign(1 << 16, 0.0f);
      actual.second_moment.assign(1 << 16, 1.0f);
      actual.rules[0].adamw.lr_weight_decay = 0;
      InlineStream stream;
      ASSERT_TRUE(kernels->Update(actual.Update(), stream).ok());
      for (uint32_t high = 0; high < 1 << 16; ++high) {
        const Bf16 weight = actual.weights[0].bf16[high];
        const float kept = master == Master::kFp32 ? actual.master[high]
                                                   : Join({.weight = weight, .remainder = actual.remainder[high]});
        const uint32_t bits = FloatBits(kept);
        uint32_t expected = bits >> 16;
        if ((bits & 0x7fffffff) > 0x7f800000) {
          expected = 0x7fc0;
        } else {
          ASSERT_TRUE(bits == (high << 16 | low) || bits == 0);
          const bool tie_up = master == Master::kSplit || high % 2 == 1;
          if (low > 0x8000 || (low == 0x8000 && tie_up)) ++expected;
        }
        ASSERT_EQ(weight.bits, expected) << std::hex << bits;
      }
    }
  }
}

TEST_P(EveryTargetTest, N5KeepsDenormalsAndTheCallersFlags) {
  const uint32_t before = _mm_getcsr();
  const auto kernels = KernelsOf(GetParam(), 2);
  // Denormals everywhere: sums of tiny gradients, tiny moments, and a second moment that underflows.
  KernelCase start({.sizes = {100'000, 33}, .accumulator = AccumulatorUse::kOut});
  for (size_t i = 0; i < start.master.size(); ++i) {
    start.gradients[0].bf16[i].bits = static_cast<uint16_t>(i % 0x90);
    start.gradients[1].bf16[i].bits = static_cast<uint16_t>(0x8000 | i % 0x70);
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
    const KernelCase start({.sizes = {150'000, 1, 2, 3, 5000, 1024, 90'001},
                            .values = values,
                            .accumulator = AccumulatorUse::kInPlace,
                            .kind = {.master = Master::kNone, .rounding = Rounding::kStochastic}});
    for (const int threads : {1, 2, 3}) {
      const auto kernels = KernelsOf(GetParam(), threads);
      ASSERT_TRUE(JudgedByReference(*kernels, start)) << threads;
    }
  }
}

TEST_P(EveryTargetTest, SkippedUpdateWritesNothing) {
  KernelCase start({.sizes = {2000}});
  start.scalars.apply = false;
  KernelCase actual = start;
  InlineStream stream;
  ASSERT_TRUE(KernelsOf(GetParam())->Update(actual.Update(), stream).ok());
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

// Short and long, aligned and not; what lies around stays.
TEST_P(EveryTargetTest, CopiesAndZerosTheBytesThatItIsAskedFor) {
  const auto kernels = KernelsOf(GetParam());
  InlineStream stream;
  constexpr size_t kAround = 64;
  for (const size_t size : {size_t{0}, size_t{1}, size_t{77}, size_t{1 << 20}, size_t{(1 << 20) + 131}}) {
    std::vector<uint8_t> from(size + kAround);
    for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<uint8_t>(1 + i % 251);
    for (const size_t begin : {0, 1, 31, 63}) {
      std::vector<uint8_t> to(size + 2 * kAround, 0xee);
      std::vector<uint8_t> expected = to;
      const size_t source = 63 - begin;
      ASSERT_TRUE(
          kernels
              ->Copy({.from = from.data() + source, .to = to.data() + begin, .size_bytes = static_cast<int64_t>(size)},
                     stream)
              .ok());
      std::copy_n(from.begin() + static_cast<int64_t>(source), size, expected.begin() + static_cast<int64_t>(begin));
      ASSERT_TRUE(to == expected) << "copy of " << size << " bytes at " << begin;
      const BufferView view = {reinterpret_cast<std::byte*>(to.data()) + begin, static_cast<int64_t>(size)};
      ASSERT_TRUE(kernels->Zero({.gradient = view}, stream).ok());
      std::fill_n(expected.begin() + static_cast<int64_t>(begin), size, uint8_t{0});
      ASSERT_TRUE(to == expected) << "zeros of " << size << " bytes at " << begin;
    }
  }
}

class OtherStream : public Stream {
 public:
  Event Record() override { return {}; }
  void Wait(const Event&) override {}
  absl::Status Synchronize(const Event&) override { return absl::OkStatus(); }
  absl::Status status() const override { return absl::OkStatus(); }
  void Call(absl::string_view, std::function<void()>) override {}
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
  EXPECT_THAT(message(kernels->Zero({}, other)), HasSubstr("host stream"));
  EXPECT_THAT(message(kernels->Copy({}, other)), HasSubstr("host stream"));
  EXPECT_THAT(message(kernels->Digest({}, other)), HasSubstr("host stream"));
  InlineStream stream;
  // All of what is checked: kernel_arguments_test.
  UpdateArgs update = work.Update();
  update.scalars = nullptr;
  EXPECT_THAT(message(kernels->Update(update, stream)), HasSubstr("scalars"));
  ReduceArgs reduce = work.Reduce();
  reduce.scan = nullptr;
  EXPECT_THAT(message(kernels->Reduce(reduce, stream)), HasSubstr("scan"));
  EXPECT_THAT(message(kernels->Zero({.gradient = {nullptr, 4}}, stream)), HasSubstr("gradient"));
  EXPECT_THAT(message(kernels->Copy({.from = nullptr, .to = &work, .size_bytes = 4}, stream)), HasSubstr("from"));
  EXPECT_TRUE(stream.status().ok());
  work.rules.clear();
  EXPECT_TRUE(kernels->Update(work.Update(), stream).ok());
  EXPECT_EQ(stream.status().code(), absl::StatusCode::kInternal);
}

TEST(ShardKernelsTest, ZeroAndCopyTouchTheirBytes) {
  const auto kernels = *CreateCpuShardKernels(2);
  std::vector<std::byte> from(1000);
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(i % 251 + 1);
  std::vector<std::byte> to(1000, std::byte{0xee});
  InlineStream stream;
  ASSERT_TRUE(kernels->Copy({.from = from.data() + 3, .to = to.data() + 5, .size_bytes = 901}, stream).ok());
  EXPECT_TRUE(std::equal(from.begin() + 3, from.begin() + 904, to.begin() + 5));
  EXPECT_EQ(to[4], std::byte{0xee});
  EXPECT_EQ(to[906], std::byte{0xee});
  ASSERT_TRUE(kernels->Zero({.gradient = {to.data() + 7, 301}}, stream).ok());
  EXPECT_EQ(to[6], from[4]);
  EXPECT_EQ(std::count(to.begin() + 7, to.begin() + 308, std::byte{0}), 301);
  EXPECT_EQ(to[308], from[306]);
  EXPECT_TRUE(kernels->Zero({}, stream).ok());
  EXPECT_TRUE(kernels->Copy({}, stream).ok());
}

}  // namespace
}  // namespace shardstep
