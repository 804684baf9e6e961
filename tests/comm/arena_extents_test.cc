#include "shardstep/comm/shm/arena_extents.h"

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "shardstep/tests/comm/contract_trainer.h"
#include "shardstep/tests/comm/rank_threads.h"

namespace shardstep {
namespace {

constexpr int kRanks = 3;
constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();

std::string ErrorOf(const std::vector<BucketExtent>& buckets) {
  return std::string(MeasureArenas({.buckets = buckets}, kRanks).status().message());
}

TEST(ArenaExtentsTest, ArenasEndWithTheirLastBucket) {
  const std::vector<BucketExtent> buckets = ContractBuckets(kRanks);
  const auto sizes = MeasureArenas({.buckets = buckets}, kRanks);
  ASSERT_TRUE(sizes.ok()) << sizes.status();
  EXPECT_EQ(sizes->gradient_bytes, GradientArenaBytes(buckets, kRanks));
  EXPECT_EQ(sizes->weight_bytes, WeightArenaBytes(buckets, kRanks));
  EXPECT_EQ(MeasureArenas({}, kRanks)->weight_bytes, 0);
}

TEST(ArenaExtentsTest, ContributionsNeedNoGradientArenaAndLookAtNoPlaceInIt) {
  const BucketExtent bucket{.shard_elements = 10, .weight_dtype = DType::kFp32, .gradient_begin_byte = -1};
  const auto sizes = MeasureArenas({.buckets = {&bucket, 1}, .contributions = 1}, kRanks);
  ASSERT_TRUE(sizes.ok()) << sizes.status();
  EXPECT_EQ(sizes->gradient_bytes, 0);
  EXPECT_EQ(sizes->weight_bytes, 10 * kRanks * 4);
  EXPECT_EQ(MeasureArenas({.contributions = -1}, kRanks).status().message(), "contributions = -1 is negative");
}

TEST(ArenaExtentsTest, ErrorsNameBucketAndField) {
  const BucketExtent fine{.shard_elements = 64};
  EXPECT_EQ(ErrorOf({fine, {.shard_elements = -1, .gradient_begin_byte = 384, .weight_begin_byte = 384}}),
            "bucket 1: shard_elements = -1 is negative");
  EXPECT_EQ(ErrorOf({{.gradient_begin_byte = -64}}), "bucket 0: gradient_begin_byte = -64 is negative");
  EXPECT_EQ(ErrorOf({{.weight_begin_byte = -64}}), "bucket 0: weight_begin_byte = -64 is negative");
  EXPECT_EQ(ErrorOf({{.gradient_begin_byte = 100}}), "bucket 0: gradient_begin_byte = 100 is not a multiple of 64");
  EXPECT_EQ(ErrorOf({{.weight_begin_byte = 32}}), "bucket 0: weight_begin_byte = 32 is not a multiple of 64");
  EXPECT_EQ(ErrorOf({{.gradient_dtype = DType::kFp16}}), "bucket 0: gradient_dtype = fp16 is not supported");
  EXPECT_EQ(ErrorOf({{.weight_dtype = DType::kFp16}}), "bucket 0: weight_dtype = fp16 is not supported");
}

TEST(ArenaExtentsTest, BytesThatOverflowAreRefused) {
  EXPECT_EQ(ErrorOf({{.shard_elements = kHuge}}), absl::StrCat("bucket 0: shard_elements = ", kHuge, " is too large"));
  // Fits in bf16 and in bf16 only.
  const int64_t most = kHuge / 4 / (kRanks + 1) / kRanks / 2;
  EXPECT_EQ(ErrorOf({{.shard_elements = most}}), "");
  EXPECT_EQ(ErrorOf({{.shard_elements = most, .weight_dtype = DType::kFp32}}),
            absl::StrCat("bucket 0: shard_elements = ", most, " is too large"));
  EXPECT_EQ(ErrorOf({{.weight_begin_byte = kHuge - 63}}),
            absl::StrCat("bucket 0: weight_begin_byte = ", kHuge - 63, " is too large"));
}

TEST(ArenaExtentsTest, BucketsMayTouchButNotOverlapWhateverTheirOrder) {
  const BucketExtent first{.shard_elements = 64};  // 384 bytes
  EXPECT_EQ(ErrorOf({{.shard_elements = 1, .gradient_begin_byte = 384, .weight_begin_byte = 384}, first}), "");
  EXPECT_EQ(ErrorOf({{.shard_elements = 1, .gradient_begin_byte = 320, .weight_begin_byte = 384}, first}),
            "bucket 0: gradient_begin_byte = 320 lies inside another bucket");
  EXPECT_EQ(ErrorOf({first, {.shard_elements = 1, .gradient_begin_byte = 384, .weight_begin_byte = 320}}),
            "bucket 1: weight_begin_byte = 320 lies inside another bucket");
  // fp32 is twice as long.
  EXPECT_EQ(ErrorOf({{.shard_elements = 64, .gradient_dtype = DType::kFp32},
                     {.shard_elements = 1, .gradient_begin_byte = 384, .weight_begin_byte = 384}}),
            "bucket 1: gradient_begin_byte = 384 lies inside another bucket");
}

TEST(ArenaExtentsTest, GivenWeightsHaveToHoldTheBuckets) {
  const BucketExtent bucket{.shard_elements = 64};
  std::byte memory[384];
  EXPECT_TRUE(MeasureArenas({.buckets = {&bucket, 1}, .weights = {memory, 384}}, kRanks).ok());
  EXPECT_EQ(MeasureArenas({.buckets = {&bucket, 1}, .weights = {memory, 383}}, kRanks).status(),
            absl::InvalidArgumentError("weights: 383 bytes, the buckets need 384"));
}

// R5: every field that may differ is found, with both ranks.
TEST(ArenaExtentsTest, RequestsThatDifferNameBothRanksBucketAndField) {
  struct Case {
    std::function<void(ArenaRequest&, std::vector<BucketExtent>&)> change;
    std::string difference;
  };
  static std::byte memory[64];
  const std::vector<Case> cases = {
      {[](ArenaRequest& r, auto&) { r.private_weights = true; },
       "private_weights differs: rank 5 has private_weights = 0, rank 9 has 1"},
      {[](ArenaRequest& r, auto&) { r.contributions = 2; },
       "contributions differs: rank 5 has contributions = 0, rank 9 has 2"},
      {[](ArenaRequest& r, auto&) {
         r.weights = {memory, 64};
       },
       "weights differs: rank 5 has weights = 0, rank 9 has 1"},
      {[](auto&, auto& b) { b.pop_back(); }, "buckets differs: rank 5 has buckets = 5, rank 9 has 4"},
      {[](auto&, auto& b) { b[1].shard_elements = 9; },
       "bucket 1 differs: rank 5 has shard_elements = 64, rank 9 has 9"},
      {[](auto&, auto& b) { b[0].gradient_dtype = DType::kFp32; },
       "bucket 0 differs: rank 5 has gradient_dtype = bf16, rank 9 has fp32"},
      {[](auto&, auto& b) { b[3].weight_dtype = DType::kBf16; },
       "bucket 3 differs: rank 5 has weight_dtype = fp32, rank 9 has bf16"},
      {[](auto&, auto& b) { b[0].gradient_begin_byte = 64; },
       "bucket 0 differs: rank 5 has gradient_begin_byte = 0, rank 9 has 64"},
      {[](auto&, auto& b) { b[4].weight_begin_byte = 64; },
       "bucket 4 differs: rank 5 has weight_begin_byte = 0, rank 9 has 64"},
  };
  for (const Case& c : cases) {
    RunRankThreads(kRanks, [&](Rendezvous& rendezvous) {
      std::vector<BucketExtent> buckets = ContractBuckets(kRanks);
      ArenaRequest request;
      if (rendezvous.rank() == 2) c.change(request, buckets);
      request.buckets = buckets;
      const std::vector<int> names = {5, 7, 9};
      EXPECT_EQ(CompareRequests(rendezvous, request, names, absl::Minutes(1)),
                absl::FailedPreconditionError(absl::StrCat("Allocate: ", c.difference)));
    });
  }
}

}  // namespace
}  // namespace shardstep
