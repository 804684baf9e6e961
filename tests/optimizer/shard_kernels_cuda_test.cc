// What stands between ShardKernels and the launches of CUDA: tables of segments, schedules, refusals, errors. The
// arithmetic: cuda_kernels_test.
#include "shardstep/optimizer/shard_kernels_cuda.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "kernel_case.h"
#include "shardstep/comm/host_stream.h"
#include "tested_kernels.h"

namespace shardstep {
namespace {

using ::testing::HasSubstr;

std::string Message(const absl::Status& status, absl::StatusCode code) {
  EXPECT_EQ(status.code(), code) << status;
  return std::string(status.message());
}
std::string Invalid(const absl::Status& status) { return Message(status, absl::StatusCode::kInvalidArgument); }

absl::Status SetSegments(HostCuda& cuda, const std::vector<absl::Span<const Segment>>& lists) {
  return cuda.kernels().SetSegments(lists);
}
absl::Status Finish(Stream& stream) { return stream.Synchronize(stream.Record()); }

TEST(ShardKernelsCudaTest, SaysWhatItWasCompiledFor) { EXPECT_EQ(HostCuda().kernels().target(), "host"); }

TEST(ShardKernelsCudaTest, LaunchesFindTheirListsAmongAll) {
  HostCuda cuda;
  std::vector<KernelCase> actual;
  for (uint32_t i = 0; i < 5; ++i) {
    actual.emplace_back(
        KernelCaseOptions{.sizes = {100 + 1500 * i, 7, 3000}, .accumulator = AccumulatorUse::kInPlace, .seed = i + 1});
  }
  std::vector<KernelCase> expected = actual;
  std::vector<absl::Span<const Segment>> lists = {{}};
  for (const KernelCase& one : actual) lists.emplace_back(one.segments);
  ASSERT_TRUE(SetSegments(cuda, lists).ok());
  for (size_t i = 0; i < actual.size(); ++i) {
    const size_t reversed = actual.size() - 1 - i;
    ASSERT_TRUE(cuda.kernels().Reduce(actual[i].Reduce(), cuda.stream()).ok());
    ASSERT_TRUE(cuda.kernels().Update(actual[reversed].Update(), cuda.stream()).ok());
    ReduceReference(expected[i].Reduce());
    UpdateReference(expected[reversed].Update());
  }
  ASSERT_TRUE(Finish(cuda.stream()).ok());
  for (size_t i = 0; i < actual.size(); ++i) EXPECT_TRUE(SameResults(actual[i], expected[i])) << i;
}

TEST(ShardKernelsCudaTest, SegmentsTakeNewMemoryOnlyWhenTheyGrow) {
  HostCuda cuda;
  const KernelCase small({.sizes = {10, 20}});
  const KernelCase large({.sizes = {10, 20, 30, 5000}});
  ASSERT_TRUE(SetSegments(cuda, {large.segments}).ok());
  const int64_t allocations = cuda.cuda().calls("Malloc");
  ASSERT_TRUE(SetSegments(cuda, {small.segments, small.segments}).ok());
  EXPECT_EQ(cuda.cuda().calls("Malloc"), allocations);
  ASSERT_TRUE(cuda.JudgedByReference(small));
  EXPECT_EQ(cuda.cuda().calls("Malloc"), allocations);
  const std::vector<absl::Span<const Segment>> both = {small.segments, large.segments};
  ASSERT_TRUE(SetSegments(cuda, both).ok());
  EXPECT_EQ(cuda.cuda().calls("Malloc"), allocations + 1);
  ASSERT_TRUE(SetSegments(cuda, {}).ok());
}

TEST(ShardKernelsCudaTest, AStepNeitherAllocatesNorBlocks) {
  HostCuda cuda;
  KernelCase work({.sizes = {5000}, .accumulator = AccumulatorUse::kInPlace});
  ASSERT_TRUE(SetSegments(cuda, {work.segments}).ok());
  const int64_t blocking = cuda.cuda().blocking_calls();
  ASSERT_TRUE(cuda.kernels().Reduce(work.Reduce(), cuda.stream()).ok());
  ASSERT_TRUE(cuda.kernels().Update(work.Update(), cuda.stream()).ok());
  EXPECT_EQ(cuda.cuda().blocking_calls(), blocking);
  ASSERT_TRUE(Finish(cuda.stream()).ok());
}

TEST(ShardKernelsCudaTest, RefusesListsThatItWasNotTold) {
  HostCuda cuda;
  KernelCase work({.sizes = {10, 20}});
  KernelCase other({.sizes = {10}});
  constexpr auto kCode = absl::StatusCode::kFailedPrecondition;
  EXPECT_THAT(Message(cuda.kernels().Reduce(work.Reduce(), cuda.stream()), kCode), HasSubstr("2 segments"));
  ASSERT_TRUE(SetSegments(cuda, {other.segments}).ok());
  EXPECT_THAT(Message(cuda.kernels().Reduce(work.Reduce(), cuda.stream()), kCode), HasSubstr("Reduce: SetSegments"));
  EXPECT_THAT(Message(cuda.kernels().Update(work.Update(), cuda.stream()), kCode), HasSubstr("Update: SetSegments"));
  ASSERT_TRUE(SetSegments(cuda, {work.segments}).ok());
  EXPECT_TRUE(cuda.kernels().Reduce(work.Reduce(), cuda.stream()).ok());
  EXPECT_THAT(Message(cuda.kernels().Reduce(other.Reduce(), cuda.stream()), kCode), HasSubstr("1 segments"));
  // Part of a list is not the list.
  ReduceArgs part = work.Reduce();
  part.segments = part.segments.first(1);
  EXPECT_EQ(cuda.kernels().Reduce(part, cuda.stream()).code(), kCode);
  // Nothing is always known.
  ReduceArgs nothing = work.Reduce();
  nothing.segments = {};
  EXPECT_TRUE(cuda.kernels().Reduce(nothing, cuda.stream()).ok());
  EXPECT_TRUE(Finish(cuda.stream()).ok()) << "a refusal is no error of the stream";
}

TEST(ShardKernelsCudaTest, AFailedSetSegmentsForgetsAllLists) {
  HostCuda cuda;
  KernelCase work({.sizes = {10, 20}});
  cuda.cuda().FailCall("Malloc", 1, CudaApi::kMemoryAllocation);
  EXPECT_EQ(SetSegments(cuda, {work.segments}).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(cuda.kernels().Reduce(work.Reduce(), cuda.stream()).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(SetSegments(cuda, {work.segments}).ok());
  EXPECT_TRUE(cuda.kernels().Reduce(work.Reduce(), cuda.stream()).ok());
  EXPECT_TRUE(Finish(cuda.stream()).ok());
}

TEST(ShardKernelsCudaTest, RefusesWhatItsKernelsCannotDo) {
  HostCuda cuda;
  KernelCase many({.sizes = {10}, .slices = Slices(CudaSumSchedule::kMaxAdditions + 1)});
  ASSERT_TRUE(SetSegments(cuda, {many.segments}).ok());
  EXPECT_THAT(Invalid(cuda.kernels().Reduce(many.Reduce(), cuda.stream())), HasSubstr("257 slices"));
  EXPECT_THAT(Invalid(cuda.kernels().Update(many.Update(), cuda.stream())), HasSubstr("256 at most"));
  for (const int destinations : {0, 2}) {
    KernelCase work({.sizes = {10}, .destinations = destinations});
    ASSERT_TRUE(SetSegments(cuda, {work.segments}).ok());
    EXPECT_THAT(Invalid(cuda.kernels().Update(work.Update(), cuda.stream())),
                HasSubstr(absl::StrCat("Update: ", destinations, " destinations")));
  }
  KernelCase work({.sizes = {10, 10}});
  ASSERT_TRUE(SetSegments(cuda, {work.segments}).ok());
  work.rules.resize(1);
  EXPECT_THAT(Message(cuda.kernels().Update(work.Update(), cuda.stream()), absl::StatusCode::kInternal),
              HasSubstr("scalars number 1, but there are 1"));
}

TEST(ShardKernelsCudaTest, RefusesArgumentsAndStreamsAsTheOthersDo) {
  HostCuda cuda;
  KernelCase work({.sizes = {10}});
  ASSERT_TRUE(SetSegments(cuda, {work.segments}).ok());
  InlineStream host;
  EXPECT_THAT(Invalid(cuda.kernels().Reduce(work.Reduce(), host)), HasSubstr("Reduce: needs a CUDA stream"));
  EXPECT_THAT(Invalid(cuda.kernels().Update(work.Update(), host)), HasSubstr("Update: needs a CUDA stream"));
  EXPECT_THAT(Invalid(cuda.kernels().Zero({}, host)), HasSubstr("Zero: needs a CUDA stream"));
  EXPECT_THAT(Invalid(cuda.kernels().Copy({}, host)), HasSubstr("Copy: needs a CUDA stream"));
  EXPECT_THAT(Invalid(cuda.kernels().Digest({}, host)), HasSubstr("Digest: needs a CUDA stream"));
  EXPECT_THAT(Invalid(cuda.kernels().Digest({.elements = -1}, cuda.stream())), HasSubstr("elements"));
  StepOrder order;
  ScanResult scan;
  SmallReduction reduction;
  const ContributeWords contribute = {.order = &order, .scan = &scan, .exchange_scan = &scan, .reduction = &reduction};
  EXPECT_THAT(Invalid(cuda.kernels().Contribute(contribute, host)), HasSubstr("Contribute: needs a CUDA stream"));
  UpdateScalars scalars;
  StepReport report;
  const DecideWords decide = {.order = &order, .reduction = &reduction, .scalars = &scalars, .report = &report};
  EXPECT_THAT(Invalid(cuda.kernels().Decide(decide, host)), HasSubstr("Decide: needs a CUDA stream"));

  EXPECT_THAT(Invalid(cuda.kernels().Contribute({}, cuda.stream())), HasSubstr("order"));
  EXPECT_THAT(Invalid(cuda.kernels().Decide({}, cuda.stream())), HasSubstr("order"));
  UpdateArgs update = work.Update();
  update.scalars = nullptr;
  EXPECT_THAT(Invalid(cuda.kernels().Update(update, cuda.stream())), HasSubstr("scalars"));
  ReduceArgs reduce = work.Reduce();
  reduce.scan = nullptr;
  EXPECT_THAT(Invalid(cuda.kernels().Reduce(reduce, cuda.stream())), HasSubstr("scan"));
  EXPECT_THAT(Invalid(cuda.kernels().Zero({.gradient = {nullptr, 4}}, cuda.stream())), HasSubstr("gradient"));
  EXPECT_THAT(Invalid(cuda.kernels().Copy({.from = nullptr, .to = &work, .size_bytes = 4}, cuda.stream())),
              HasSubstr("from"));
  EXPECT_TRUE(Finish(cuda.stream()).ok());
}

TEST(ShardKernelsCudaTest, ZeroAndCopyTouchTheirBytes) {
  HostCuda cuda;
  const Buffer from = *cuda.memory().Allocate(1000, "from", PageBacking::kOnCreation);
  const Buffer to = *cuda.memory().Allocate(1000, "to", PageBacking::kOnCreation);
  std::vector<std::byte> bytes(1000);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i % 251 + 1);
  ASSERT_TRUE(cuda.memory().Write(bytes.data(), from.view().data, 1000).ok());
  std::vector<std::byte> expected(1000, std::byte{0xee});
  ASSERT_TRUE(cuda.memory().Write(expected.data(), to.view().data, 1000).ok());
  std::copy_n(bytes.begin() + 3, 901, expected.begin() + 5);
  std::fill_n(expected.begin() + 7, 301, std::byte{0});
  const CopyArgs copy = {.from = from.view().data + 3, .to = to.view().data + 5, .size_bytes = 901};
  ASSERT_TRUE(cuda.kernels().Copy(copy, cuda.stream()).ok());
  ASSERT_TRUE(cuda.kernels().Zero({.gradient = {to.view().data + 7, 301}}, cuda.stream()).ok());
  EXPECT_TRUE(cuda.kernels().Zero({}, cuda.stream()).ok());
  EXPECT_TRUE(cuda.kernels().Copy({}, cuda.stream()).ok());
  ASSERT_TRUE(Finish(cuda.stream()).ok());
  ASSERT_TRUE(cuda.memory().Read(to.view().data, bytes.data(), 1000).ok());
  EXPECT_EQ(bytes, expected);
  EXPECT_THAT(cuda.cuda().misuses(), ::testing::IsEmpty());
}

TEST(ShardKernelsCudaTest, ErrorsOfTheDeviceAreTheStreams) {
  HostCuda cuda;
  KernelCase work({.sizes = {10}});
  ASSERT_TRUE(SetSegments(cuda, {work.segments}).ok());
  cuda.cuda().FailDevice(0, FakeCuda::kIllegalAddress);
  EXPECT_EQ(cuda.kernels().Reduce(work.Reduce(), cuda.stream()).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(cuda.stream().status().code(), absl::StatusCode::kInternal);
}

TEST(ShardKernelsCudaTest, TwinsLeaveStateAsItIs) {
  for (const DType dtype : {DType::kBf16, DType::kFp32}) {
    HostCuda cuda;
    const KernelCase start(
        {.sizes = {3000, 1024}, .slices = Slices(5, dtype), .accumulator = AccumulatorUse::kInPlace});
    KernelCase actual = start;
    ASSERT_TRUE(SetSegments(cuda, {actual.segments}).ok());
    ASSERT_TRUE(LaunchReduceTwin(cuda.kernels(), actual.Reduce(), cuda.stream()).ok());
    ASSERT_TRUE(LaunchUpdateTwin(cuda.kernels(), actual.Update(), cuda.stream()).ok());
    ASSERT_TRUE(Finish(cuda.stream()).ok());
    KernelCase expected = start;
    for (const Segment& segment : expected.segments) {
      for (int64_t i = 0; i < segment.elements / 8 * 8; ++i) {
        const int64_t at = segment.shard_begin_element + i;
        expected.weights[0].bf16[at].bits = static_cast<uint16_t>(FloatBits(expected.master[at]) >> 16);
      }
    }
    EXPECT_TRUE(SameResults(actual, expected));
  }
}

TEST(ShardKernelsCudaTest, TwinsAreOfCudaAndOfAdamW) {
  HostCuda cuda;
  KernelCase work({.sizes = {10}, .kind = {.rule = Rule::kLion}});
  ASSERT_TRUE(SetSegments(cuda, {work.segments}).ok());
  EXPECT_THAT(Invalid(LaunchUpdateTwin(cuda.kernels(), work.Update(), cuda.stream())), HasSubstr("only of AdamW"));
  const auto cpu = *CreateCpuShardKernels(1);
  InlineStream host;
  EXPECT_THAT(Invalid(LaunchReduceTwin(*cpu, work.Reduce(), host)), HasSubstr("only of kernels of CUDA"));
  EXPECT_THAT(Invalid(LaunchUpdateTwin(*cpu, work.Update(), host)), HasSubstr("only of kernels of CUDA"));
}

}  // namespace
}  // namespace shardstep
