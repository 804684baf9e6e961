#include "shardstep/optimizer/kernel_arguments.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernel_case.h"

namespace shardstep {
namespace {

using ::testing::HasSubstr;

template <typename Args>
std::string Refusal(const Args& args) {
  const absl::Status status = CheckArguments(args);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  return std::string(status.message());
}

TEST(KernelArgumentsTest, EveryUpdateTakesExactlyItsArrays) {
  for (const NamedUpdate& named : AllUpdates()) {
    KernelCase work({.sizes = {10}, .kind = named.kind, .weight_dtype = named.weight_dtype});
    const UpdateArgs whole = work.Update();
    EXPECT_TRUE(CheckArguments(whole).ok()) << named.name << CheckArguments(whole);
    // Each array is taken away where it is, and given where it is not.
    UpdateArgs args = whole;
    args.master = whole.master == nullptr ? work.master.data() : nullptr;
    EXPECT_THAT(Refusal(args), HasSubstr("master"));
    args = whole;
    args.remainder = whole.remainder == nullptr ? work.remainder.data() : nullptr;
    EXPECT_THAT(Refusal(args), HasSubstr("remainder"));
    args = whole;
    args.first_moment = whole.first_moment == nullptr ? work.first_moment.data() : nullptr;
    EXPECT_THAT(Refusal(args), HasSubstr("first_moment"));
    args = whole;
    args.second_moment = whole.second_moment == nullptr ? work.second_moment.data() : nullptr;
    EXPECT_THAT(Refusal(args), HasSubstr("second_moment"));
    args = whole;
    args.destinations = {};
    if (whole.master == nullptr) {
      EXPECT_THAT(Refusal(args), HasSubstr("destinations[0]"));
    } else {
      EXPECT_TRUE(CheckArguments(args).ok());
    }
  }
}

TEST(KernelArgumentsTest, RefusesAnUpdateThatCannotBe) {
  KernelCase work({.sizes = {10}, .destinations = 2});
  const UpdateArgs whole = work.Update();
  UpdateArgs args = whole;
  args.scalars = nullptr;
  EXPECT_THAT(Refusal(args), HasSubstr("scalars is missing"));
  args = whole;
  args.weight_dtype = DType::kFp16;
  EXPECT_THAT(Refusal(args), HasSubstr("fp16"));
  args = whole;
  args.sum.closes = false;
  EXPECT_THAT(Refusal(args), HasSubstr("closes"));
  void* const destinations[] = {work.weights[0].data(), nullptr};
  args = whole;
  args.destinations = destinations;
  EXPECT_THAT(Refusal(args), HasSubstr("destinations[1]"));
}

TEST(KernelArgumentsTest, RefusesSumsThatCannotBe) {
  KernelCase work({.sizes = {10}, .accumulator = AccumulatorUse::kInAndOut, .first_micro_batch = 4});
  const auto refusal = [&work](auto change) {
    ReduceArgs args = work.Reduce();
    EXPECT_TRUE(CheckArguments(args).ok()) << CheckArguments(args);
    std::vector<Slice> slices(args.sum.slices.begin(), args.sum.slices.end());
    change(&args, &slices);
    args.sum.slices = slices;
    return Refusal(args);
  };
  float* const array = work.group_accumulator_out.data();
  EXPECT_THAT(refusal([](auto* args, auto*) { args->sum.sum_group = 0; }), HasSubstr("sum_group = 0"));
  EXPECT_THAT(refusal([](auto* args, auto*) { args->sum.first_micro_batch = -1; }), HasSubstr("first_micro_batch"));
  EXPECT_THAT(refusal([](auto*, auto* slices) { (*slices)[1].data = nullptr; }), HasSubstr("slices[1].data"));
  EXPECT_THAT(refusal([](auto*, auto* slices) { (*slices)[1].dtype = DType::kFp16; }), HasSubstr("slices[1] is fp16"));
  EXPECT_THAT(refusal([](auto*, auto* slices) { (*slices)[1].rank = 0; }), HasSubstr("slices[1]"));
  EXPECT_THAT(refusal([](auto*, auto* slices) { (*slices)[0].ranks = 0; }), HasSubstr("slices[0]"));
  EXPECT_THAT(refusal([](auto* args, auto*) { args->scan = nullptr; }), HasSubstr("scan"));
  EXPECT_THAT(refusal([array](auto* args, auto*) { args->sum.group_accumulator = array; }),
              HasSubstr("group_accumulator is given"));
  EXPECT_THAT(refusal([array](auto* args, auto*) {
                args->sum.sum_group = 2;
                args->sum.group_accumulator = array;
              }),
              HasSubstr("no group of 2 goes on at micro-batch 4"));
  EXPECT_THAT(refusal([array](auto* args, auto*) { args->group_accumulator_out = array; }),
              HasSubstr("group_accumulator_out is given"));
  EXPECT_THAT(refusal([](auto* args, auto*) {
                args->sum.sum_group = 4;
                args->sum.closes = false;
              }),
              HasSubstr("group_accumulator_out is missing"));
}

TEST(KernelArgumentsTest, RefusesADigestThatCannotBe) {
  const float value = 0;
  const uint16_t remainder = 0;
  DigestSum sum;
  const DigestArgs whole = {.values = &value, .begin_element = 2048, .elements = 1, .sum = &sum};
  EXPECT_TRUE(CheckArguments(whole).ok());
  DigestArgs args = whole;
  args.values = nullptr;
  EXPECT_THAT(Refusal(args), HasSubstr("values is missing"));
  args = whole;
  args.sum = nullptr;
  EXPECT_THAT(Refusal(args), HasSubstr("sum is missing"));
  args = whole;
  args.elements = -1;
  EXPECT_THAT(Refusal(args), HasSubstr("elements = -1"));
  for (const int64_t begin : {1000, -1024}) {
    args = whole;
    args.begin_element = begin;
    EXPECT_THAT(Refusal(args), HasSubstr(absl::StrCat("begin_element = ", begin)));
  }
  args = whole;
  args.remainder = &remainder;
  for (const DigestForm form : {DigestForm::kFp32, DigestForm::kBf16}) {
    args.form = form;
    EXPECT_THAT(Refusal(args), HasSubstr("remainder is given"));
  }
  args.form = DigestForm::kWidened;
  EXPECT_TRUE(CheckArguments(args).ok());
  EXPECT_TRUE(CheckArguments(DigestArgs{}).ok()) << "nothing";
}

TEST(KernelArgumentsTest, RefusesBytesThatAreNotThere) {
  std::byte byte{};
  EXPECT_TRUE(CheckArguments(ZeroArgs{}).ok());
  EXPECT_TRUE(CheckArguments(ZeroArgs{.gradient = {&byte, 1}}).ok());
  EXPECT_THAT(Refusal(ZeroArgs{.gradient = {nullptr, 1}}), HasSubstr("gradient is missing"));
  EXPECT_THAT(Refusal(ZeroArgs{.gradient = {&byte, -1}}), HasSubstr("-1 bytes"));
  EXPECT_TRUE(CheckArguments(CopyArgs{}).ok());
  EXPECT_THAT(Refusal(CopyArgs{.from = &byte, .size_bytes = 1}), HasSubstr("to is missing"));
  EXPECT_THAT(Refusal(CopyArgs{.to = &byte, .size_bytes = 1}), HasSubstr("from is missing"));
  EXPECT_THAT(Refusal(CopyArgs{.from = &byte, .to = &byte, .size_bytes = -1}), HasSubstr("size_bytes = -1"));
}

}  // namespace
}  // namespace shardstep
