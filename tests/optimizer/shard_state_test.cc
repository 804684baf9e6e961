#include "shardstep/optimizer/shard_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "shardstep/comm/host_memory.h"

namespace shardstep {
namespace {

using ::testing::HasSubstr;

constexpr ShardState::Sums kNoSums = {};
constexpr ShardState::Sums kAccumulator = {.accumulator = true};
constexpr ShardState::Sums kBothSums = {.accumulator = true, .group_accumulator = true};

// One bucket of two blocks per rank.
ShardLayout LayoutOf(const UpdateKind& update, DType weight_dtype = DType::kBf16, bool frozen = false) {
  return *ShardLayout::Create({{.name = "w", .shape = {2048}, .weight_dtype = weight_dtype, .frozen = frozen}},
                              {.groups = {update}});
}

struct Array {
  void* data;
  int64_t element_bytes;
};

std::vector<Array> ArraysOf(const BucketState& state) {
  return {{state.master, 4},        {state.remainder, 2},   {state.first_moment, 4},
          {state.second_moment, 4}, {state.accumulator, 4}, {state.group_accumulator, 4}};
}

// "mr12ag": which arrays a bucket has.
std::string Has(const BucketState& state) {
  std::string has;
  const std::vector<Array> arrays = ArraysOf(state);
  for (size_t i = 0; i < arrays.size(); ++i) {
    if (arrays[i].data != nullptr) has += "mr12ag"[i];
  }
  return has;
}

int64_t BytesPerElement(const BucketState& state) {
  int64_t bytes = 0;
  for (const Array& array : ArraysOf(state)) bytes += array.data == nullptr ? 0 : array.element_bytes;
  return bytes;
}

std::string HasAfterCreate(const ShardLayout& layout, const ShardState::Sums& sums) {
  const auto state = ShardState::Create(layout, sums);
  EXPECT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(BytesPerElement(state->bucket(0)) * layout.shard_elements(0),
            ShardState::BytesOf(layout, sums).total_bytes());
  return Has(state->bucket(0));
}

TEST(ShardStateTest, KeepsWhatTheKindOfABucketNeeds) {
  constexpr UpdateKind kAdamW;
  constexpr UpdateKind kSgd = {.rule = Rule::kSgd, .momentum = false};
  constexpr UpdateKind kLionSplit = {.rule = Rule::kLion, .master = Master::kSplit};
  EXPECT_EQ(HasAfterCreate(LayoutOf(kAdamW), kNoSums), "m12");
  EXPECT_EQ(HasAfterCreate(LayoutOf(kAdamW), kAccumulator), "m12a");
  EXPECT_EQ(HasAfterCreate(LayoutOf(kAdamW), kBothSums), "m12ag");
  EXPECT_EQ(HasAfterCreate(LayoutOf({.master = Master::kSplit}), kNoSums), "r12");
  EXPECT_EQ(HasAfterCreate(LayoutOf({.master = Master::kNone}), kNoSums), "12");
  EXPECT_EQ(HasAfterCreate(LayoutOf(kLionSplit), kNoSums), "r1");
  EXPECT_EQ(HasAfterCreate(LayoutOf({.rule = Rule::kSgd}), kNoSums), "m1");
  EXPECT_EQ(HasAfterCreate(LayoutOf(kSgd), kNoSums), "m");
  // fp32 weights are their own master.
  EXPECT_EQ(HasAfterCreate(LayoutOf(kAdamW, DType::kFp32), kNoSums), "12");
  EXPECT_EQ(HasAfterCreate(LayoutOf(kLionSplit, DType::kFp32), kNoSums), "1");
  // A frozen bucket has nothing, not even sums.
  EXPECT_EQ(HasAfterCreate(LayoutOf(kAdamW, DType::kBf16, /*frozen=*/true), kBothSums), "");
}

TEST(ShardStateTest, ArraysAreZeroPageAlignedAndApart) {
  const auto layout = ShardLayout::Create(
      {{.name = "a", .shape = {20000}}, {.name = "b", .shape = {20000}, .group = 1}},
      {.bucket_bytes = 32768, .world_size = 2, .groups = {{}, {.rule = Rule::kLion, .master = Master::kSplit}}});
  ASSERT_TRUE(layout.ok()) << layout.status();
  ASSERT_EQ(layout->bucket_count(), 4);
  const auto state = ShardState::Create(*layout, kBothSums);
  ASSERT_TRUE(state.ok()) << state.status();
  std::vector<std::pair<const char*, int64_t>> arrays;
  for (int b = 0; b < 4; ++b) {
    for (const Array& array : ArraysOf(state->bucket(b))) {
      if (array.data == nullptr) continue;
      const auto* bytes = static_cast<const char*>(array.data);
      const int64_t size_bytes = array.element_bytes * layout->shard_elements(b);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes) % 4096, 0u);
      EXPECT_EQ(std::count(bytes, bytes + size_bytes, '\0'), size_bytes);
      std::memset(array.data, static_cast<int>(arrays.size() + 1), size_bytes);
      arrays.emplace_back(bytes, size_bytes);
    }
  }
  EXPECT_EQ(arrays.size(), 2u * 5 + 2 * 4);
  for (size_t i = 0; i < arrays.size(); ++i) {
    const auto [bytes, size_bytes] = arrays[i];
    EXPECT_EQ(std::count(bytes, bytes + size_bytes, static_cast<char>(i + 1)), size_bytes);
  }
}

TEST(ShardStateTest, EnsureSumsAddsWhatIsMissingAndKeepsTheRest) {
  const ShardLayout layout = LayoutOf({});
  auto state = ShardState::Create(layout, kNoSums);
  ASSERT_TRUE(state.ok());
  const BucketState before = state->bucket(0);
  before.master[2047] = 3.0f;
  ASSERT_TRUE(state->EnsureSums(layout, {.group_accumulator = true}).ok());
  EXPECT_EQ(Has(state->bucket(0)), "m12g");
  state->bucket(0).group_accumulator[5] = 7.0f;
  // A sum that is there stays, also when it is not asked for again.
  ASSERT_TRUE(state->EnsureSums(layout, kAccumulator).ok());
  EXPECT_EQ(Has(state->bucket(0)), "m12ag");
  EXPECT_EQ(state->bucket(0).accumulator[5], 0.0f);
  const BucketState all = state->bucket(0);
  ASSERT_TRUE(state->EnsureSums(layout, kBothSums).ok());
  EXPECT_EQ(state->bucket(0).accumulator, all.accumulator);
  EXPECT_EQ(state->bucket(0).group_accumulator, all.group_accumulator);
  EXPECT_EQ(state->bucket(0).group_accumulator[5], 7.0f);
  EXPECT_EQ(state->bucket(0).master, before.master);
  EXPECT_EQ(before.master[2047], 3.0f);
}

TEST(ShardStateTest, ABucketThawedLaterHasAllSumsThatWereAskedFor) {
  const ShardLayout layout = LayoutOf({});
  auto state = ShardState::Create(layout, kAccumulator);
  ASSERT_TRUE(state.ok());
  state->Freeze(0);
  ASSERT_TRUE(state->EnsureSums(layout, {.group_accumulator = true}).ok());
  ASSERT_TRUE(state->Thaw(layout, 0).ok());
  EXPECT_EQ(Has(state->bucket(0)), "m12ag");
}

TEST(ShardStateTest, M2ThawMakesAndFreezeDropsTheStateOfABucket) {
  const auto layout =
      ShardLayout::Create({{.name = "a", .shape = {10}}, {.name = "b", .shape = {10}, .frozen = true}}, {});
  ASSERT_TRUE(layout.ok());
  auto state = ShardState::Create(*layout, kNoSums);
  ASSERT_TRUE(state.ok());
  const int frozen = layout->buckets_of(1)[0];
  const int other = layout->buckets_of(0)[0];
  EXPECT_FALSE(state->active(frozen));
  EXPECT_TRUE(state->active(other));
  float* const others_master = state->bucket(other).master;
  others_master[0] = 4.0f;

  // Sums are not made for a frozen bucket, but it has them once it is thawed.
  ASSERT_TRUE(state->EnsureSums(*layout, kAccumulator).ok());
  EXPECT_EQ(Has(state->bucket(frozen)), "");
  EXPECT_EQ(Has(state->bucket(other)), "m12a");
  ASSERT_TRUE(state->Thaw(*layout, frozen).ok());
  EXPECT_TRUE(state->active(frozen));
  EXPECT_EQ(Has(state->bucket(frozen)), "m12a");
  state->bucket(frozen).second_moment[1] = 2.0f;
  ASSERT_TRUE(state->Thaw(*layout, frozen).ok());
  EXPECT_EQ(state->bucket(frozen).second_moment[1], 2.0f) << "it had state";

  state->Freeze(frozen);
  EXPECT_FALSE(state->active(frozen));
  EXPECT_EQ(Has(state->bucket(frozen)), "");
  ASSERT_TRUE(state->Thaw(*layout, frozen).ok());
  EXPECT_EQ(state->bucket(frozen).second_moment[1], 0.0f);
  EXPECT_EQ(state->bucket(other).master, others_master);
  EXPECT_EQ(others_master[0], 4.0f);
}

TEST(ShardStateTest, PointersStayWhenItIsMoved) {
  const ShardLayout layout = LayoutOf({});
  auto created = ShardState::Create(layout, kNoSums);
  float* const master = created->bucket(0).master;
  const ShardState state = *std::move(created);
  EXPECT_EQ(state.bucket(0).master, master);
  master[2047] = 1.0f;
}

TEST(ShardStateTest, NothingIsOwned) {
  const auto layout = ShardLayout::Create({{.name = "empty", .shape = {0}}}, {.world_size = 2});
  auto state = ShardState::Create(*layout, kBothSums);
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_TRUE(state->EnsureSums(*layout, kBothSums).ok());
  EXPECT_EQ(ShardState::BytesOf(*layout, kBothSums), ShardState::Bytes());
}

// Pages that nobody has used yet are not counted as taken, so arrays that fit one by one need not fit together.
TEST(ShardStateTest, RefusesWhatWouldNotFitOnceItIsUsed) {
  const int64_t available_bytes = std::min(AvailableMemoryBytes(), int64_t{1} << 41);
  const std::vector<ParameterSpec> specs = {{.name = "w", .shape = {available_bytes / 4 * 5 / 10}}};
  const auto layout = ShardLayout::Create(specs, {.bucket_bytes = int64_t{1} << 42});
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(ShardState::Create(*layout, kNoSums).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(ShardStateTest, TakesNoMemoryBeforeItIsUsed) {
  const auto layout = ShardLayout::Create({{.name = "w", .shape = {int64_t{1} << 22}}}, {});
  const auto state = ShardState::Create(*layout, kNoSums);
  ASSERT_TRUE(state.ok()) << state.status();
  std::vector<unsigned char> resident(layout->shard_elements(0) * 4 / 4096);
  const auto resident_pages = [&resident](float* array) {
    EXPECT_EQ(mincore(array, resident.size() * 4096, resident.data()), 0);
    return std::count_if(resident.begin(), resident.end(), [](unsigned char page) { return (page & 1) != 0; });
  };
  float* const moments = state->bucket(0).first_moment;
  EXPECT_EQ(resident_pages(moments), 0);
  moments[0] = 1.0f;
  EXPECT_GT(resident_pages(moments), 0);
}

// An estimate before anything is allocated: 2^20 elements of a kind that would take terabytes are as cheap as one.
TEST(ShardStateTest, BytesOfAddsUpWhatIsNotFrozen) {
  const auto layout = ShardLayout::Create({{.name = "a", .shape = {int64_t{1} << 39}},
                                           {.name = "b", .shape = {2048}, .weight_dtype = DType::kFp32},
                                           {.name = "c", .shape = {4096}, .frozen = true}},
                                          {.bucket_bytes = int64_t{1} << 34, .world_size = 2});
  ASSERT_TRUE(layout.ok());
  const int64_t half = int64_t{1} << 38;
  EXPECT_EQ(ShardState::BytesOf(*layout, kNoSums),
            (ShardState::Bytes{.master_bytes = 4 * half, .moment_bytes = 8 * (half + 1024)}));
  EXPECT_EQ(ShardState::BytesOf(*layout, kBothSums).sum_bytes, 8 * (half + 1024));
  EXPECT_EQ(ShardState::BytesOf(*layout, kAccumulator).total_bytes(), 16 * half + int64_t{12} * 1024);
  const int frozen = layout->buckets_of(2)[0];
  EXPECT_EQ(ShardState::BytesOf(*layout, frozen, kAccumulator),
            (ShardState::Bytes{.master_bytes = 8192, .moment_bytes = 16384, .sum_bytes = 8192}));
}

// Memory that no machine has is refused by name, and nothing has changed.
TEST(ShardStateTest, NothingHasChangedAfterAnError) {
  std::vector<ParameterSpec> specs = {{.name = "giant", .shape = {1024}},
                                      {.name = "small", .shape = {1024}, .weight_dtype = DType::kFp32}};
  const LayoutOptions options = {.bucket_bytes = int64_t{1} << 42};
  const auto fits = ShardLayout::Create(specs, options);
  specs[0].shape = {int64_t{1} << 39};
  const auto too_large = ShardLayout::Create(specs, options);
  ASSERT_TRUE(fits.ok() && too_large.ok());
  ASSERT_EQ(too_large->bucket_count(), 2);
  const auto refused = [](const absl::Status& status, const std::string& what) {
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(status.message()), HasSubstr(what));
  };
  refused(ShardState::Create(*too_large, kNoSums).status(), "optimizer state");

  auto state = ShardState::Create(*fits, kNoSums);
  ASSERT_TRUE(state.ok()) << state.status();
  const float* const first_moment = state->bucket(0).first_moment;
  refused(state->EnsureSums(*too_large, kAccumulator), "gradient accumulators");
  EXPECT_EQ(Has(state->bucket(0)), "12") << "although its own sum was to be had";
  EXPECT_EQ(Has(state->bucket(1)), "m12");
  EXPECT_EQ(state->bucket(0).first_moment, first_moment);

  state->Freeze(1);
  refused(state->Thaw(*too_large, 1), "optimizer state of bucket 1");
  EXPECT_FALSE(state->active(1));
  EXPECT_EQ(Has(state->bucket(1)), "");
  // The sums that were refused are not remembered either.
  ASSERT_TRUE(state->Thaw(*fits, 1).ok());
  EXPECT_EQ(Has(state->bucket(1)), "m12");
}

}  // namespace
}  // namespace shardstep
