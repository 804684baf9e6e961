#include "shardstep/optimizer/shard_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "layout_checks.h"

namespace shardstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<ParameterSpec> Specs(const std::vector<int64_t>& sizes) {
  std::vector<ParameterSpec> specs;
  for (const int64_t size : sizes) specs.push_back({.name = absl::StrCat("p", specs.size()), .shape = {size}});
  return specs;
}

TEST(ShardLayoutTest, L1EveryElementIsOwnedOnce) {
  LayoutRandom random(1);
  for (int i = 0; i < 10000; ++i) {
    SCOPED_TRACE(absl::StrCat("case ", i));
    const LayoutCase c = random.MakeCase(/*many_ranks=*/i % 10 == 0);
    const auto layout = ShardLayout::Create(c.specs, c.options);
    ASSERT_TRUE(layout.ok()) << layout.status();
    const HomeMap homes = CollectHomes(*layout);
    CheckNumbering(*layout);
    CheckArenas(*layout, c.options);
    CheckBuckets(*layout, c.options, homes);
    CheckBucketsOf(*layout, homes);
    for (int p = 0; p < layout->parameter_count(); ++p) {
      CheckOwners(*layout, homes, p, 0, layout->elements(p));
      const int64_t begin = random.Below(layout->elements(p) + 1);
      CheckOwners(*layout, homes, p, begin, begin + random.Below(layout->elements(p) - begin + 1));
    }
    if (::testing::Test::HasFailure()) return;
  }
}

// Whatever else is registered, a kind is laid out as if it were alone: only bucket numbers and arena offsets differ.
TEST(ShardLayoutTest, L1AKindIsLaidOutAsIfAlone) {
  LayoutRandom random(2);
  for (int i = 0; i < 1000; ++i) {
    SCOPED_TRACE(absl::StrCat("case ", i));
    const LayoutCase c = random.MakeCase(/*many_ranks=*/false);
    const auto all = ShardLayout::Create(c.specs, c.options);
    ASSERT_TRUE(all.ok()) << all.status();
    for (const ParameterSpec& first : c.specs) {
      const BucketKind kind = KindOf(first, c.options);
      std::vector<int> buckets;
      for (int b = 0; b < all->bucket_count(); ++b) {
        if (all->kind(b) == kind) buckets.push_back(b);
      }
      std::vector<ParameterSpec> specs;
      for (const ParameterSpec& spec : c.specs) {
        if (KindOf(spec, c.options) == kind) specs.push_back(spec);
      }
      const auto alone = ShardLayout::Create(specs, c.options);
      ASSERT_EQ(static_cast<size_t>(alone->bucket_count()), buckets.size());
      for (int b = 0; b < alone->bucket_count(); ++b) {
        EXPECT_EQ(alone->shard_elements(b), all->shard_elements(buckets[b]));
        for (int rank = 0; rank < alone->world_size(); ++rank) {
          const auto segments = alone->Segments(b, rank);
          const auto segments_of_all = all->Segments(buckets[b], rank);
          ASSERT_EQ(segments.size(), segments_of_all.size());
          for (size_t s = 0; s < segments.size(); ++s) {
            EXPECT_EQ(alone->parameter(segments[s].parameter).name, all->parameter(segments_of_all[s].parameter).name);
            EXPECT_EQ(segments[s].begin_element, segments_of_all[s].begin_element);
            EXPECT_EQ(segments[s].elements, segments_of_all[s].elements);
            EXPECT_EQ(segments[s].shard_begin_element, segments_of_all[s].shard_begin_element);
          }
        }
      }
    }
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(ShardLayoutTest, PaddingOfABucketFollowsItsFirstParameter) {
  // One bucket of 4 blocks: p0 has one, then the padding, then p1 and p2 up to the end.
  const auto layout = ShardLayout::Create(Specs({10, 1024, 1}), {.bucket_bytes = 1 << 20, .world_size = 2});
  ASSERT_TRUE(layout.ok());
  EXPECT_EQ(layout->gradient_arena_bytes(), 4 * kBlock * 2);
  EXPECT_EQ(layout->weight_arena_bytes(), 4 * kBlock * 2);
  EXPECT_EQ(layout->gradient_begin_byte(0), 0);
  EXPECT_EQ(layout->gradient_begin_byte(1), 2 * kBlock * 2);
  EXPECT_EQ(layout->gradient_begin_byte(2), 3 * kBlock * 2);
}

TEST(ShardLayoutTest, ABucketInsideOneParameterHasNoPadding) {
  // Units of 2 blocks, buckets of 2 units. From the end: p1 (1 block) and 3 blocks of p0 (its last one short) fill
  // bucket 0; the rest of p0 is 6 blocks.
  const auto layout = ShardLayout::Create(Specs({8 * kBlock + 1, 5}), {.bucket_bytes = 8 * kBlock, .world_size = 2});
  ASSERT_TRUE(layout.ok());
  ASSERT_EQ(layout->bucket_count(), 3);
  EXPECT_EQ(layout->gradient_arena_bytes(), 10 * kBlock * 2);
  EXPECT_EQ(layout->shard_elements(0), 2 * kBlock);
  EXPECT_EQ(layout->shard_elements(1), 2 * kBlock);
  EXPECT_EQ(layout->shard_elements(2), 1 * kBlock);
  EXPECT_THAT(layout->buckets_of(0), ElementsAre(0, 1, 2));
  EXPECT_THAT(layout->buckets_of(1), ElementsAre(0));
  EXPECT_EQ(layout->gradient_begin_byte(0), 0);
}

// M1: bf16 and fp32, interleaved. Units of one block, buckets of 4 KiB of gradients: 2 blocks of bf16, 1 of fp32.
TEST(ShardLayoutTest, M1BucketsOfSeveralKindsAreNumberedAsBackwardCompletesThem) {
  constexpr DType kFp32 = DType::kFp32;
  const std::vector<ParameterSpec> specs = {
      {.name = "bf16 a", .shape = {kBlock}},
      {.name = "fp32 a", .shape = {2 * kBlock}, .weight_dtype = kFp32, .gradient_dtype = kFp32},
      {.name = "bf16 b", .shape = {2 * kBlock}},
      {.name = "mixed", .shape = {1}, .weight_dtype = kFp32}};
  const auto layout = ShardLayout::Create(specs, {.bucket_bytes = 4096});
  ASSERT_TRUE(layout.ok());
  ASSERT_EQ(layout->bucket_count(), 5);
  EXPECT_THAT(layout->buckets_of(3), ElementsAre(0));
  EXPECT_THAT(layout->buckets_of(2), ElementsAre(1));
  EXPECT_THAT(layout->buckets_of(1), ElementsAre(2, 3));
  EXPECT_THAT(layout->buckets_of(0), ElementsAre(4));
  EXPECT_EQ(layout->kind(2).gradient_dtype, kFp32);
  // Kinds in the arenas: bf16 with 3 blocks, fp32 with 2, fp32 weights of bf16 gradients with 1.
  EXPECT_EQ(layout->gradient_begin_byte(2), kBlock * 2);
  EXPECT_EQ(layout->gradient_begin_byte(1), 3 * kBlock * 2);
  EXPECT_EQ(layout->gradient_begin_byte(3), 3 * kBlock * 2 + 2 * kBlock * 4);
  EXPECT_EQ(layout->gradient_arena_bytes(), 4 * kBlock * 2 + 2 * kBlock * 4);
  EXPECT_EQ(layout->weight_begin_byte(3), 3 * kBlock * 2 + 2 * kBlock * 4);
  EXPECT_EQ(layout->weight_arena_bytes(), 3 * kBlock * 2 + 3 * kBlock * 4);
  EXPECT_EQ(layout->bucket_gradient_begin_byte(2), layout->gradient_begin_byte(1) + kBlock * 4);
  EXPECT_EQ(layout->bucket_gradient_begin_byte(3), layout->gradient_begin_byte(1));
}

// A parameter that spans buckets, with a bucket of another kind numbered between them.
TEST(ShardLayoutTest, BucketsOfAParameterNeedNotBeConsecutive) {
  const std::vector<ParameterSpec> specs = {{.name = "a", .shape = {1}},
                                            {.name = "other", .shape = {kBlock}, .gradient_dtype = DType::kFp32},
                                            {.name = "b", .shape = {kBlock}}};
  const auto split = ShardLayout::Create(specs, {.bucket_bytes = 2048});
  ASSERT_TRUE(split.ok());
  EXPECT_THAT(split->buckets_of(2), ElementsAre(0));
  EXPECT_THAT(split->buckets_of(1), ElementsAre(1));
  EXPECT_THAT(split->buckets_of(0), ElementsAre(2));
  // Of one kind a bucket reaches from c into a's tail; it completes with a, after the other kind's bucket.
  const std::vector<ParameterSpec> reaching = {{.name = "a", .shape = {3 * kBlock}},
                                               {.name = "other", .shape = {kBlock}, .gradient_dtype = DType::kFp32},
                                               {.name = "c", .shape = {kBlock}}};
  const auto layout = ShardLayout::Create(reaching, {.bucket_bytes = 4096});
  ASSERT_TRUE(layout.ok());
  EXPECT_THAT(layout->buckets_of(1), ElementsAre(0));
  EXPECT_THAT(layout->buckets_of(2), ElementsAre(1));
  EXPECT_THAT(layout->buckets_of(0), ElementsAre(1, 2));
}

// Groups with equal rules stay apart: each has a learning rate of its own, and unfreezes alone.
TEST(ShardLayoutTest, M2GroupsAndFrozenParametersHaveBucketsOfTheirOwn) {
  const std::vector<ParameterSpec> specs = {{.name = "a", .shape = {1}},
                                            {.name = "b", .shape = {1}, .group = 1},
                                            {.name = "c", .shape = {1}, .frozen = true},
                                            {.name = "d", .shape = {1}}};
  LayoutOptions options;
  options.groups.resize(2);
  options.groups[1].rule = Rule::kLion;
  const auto layout = ShardLayout::Create(specs, options);
  ASSERT_TRUE(layout.ok());
  ASSERT_EQ(layout->bucket_count(), 3);
  EXPECT_THAT(layout->parameters_of(0), ElementsAre(2));
  EXPECT_TRUE(layout->kind(0).frozen);
  EXPECT_THAT(layout->parameters_of(1), ElementsAre(1));
  EXPECT_EQ(layout->kind(1), (BucketKind{.group = 1, .update = {.rule = Rule::kLion}}));
  EXPECT_THAT(layout->parameters_of(2), ElementsAre(0, 3));
}

// What checkpoints, digests and records call a parameter and an element depends on neither dtypes nor freezing nor the
// groups' rules nor the ranks.
TEST(ShardLayoutTest, M6IdsDoNotShift) {
  const std::vector<ParameterSpec> plain = Specs({3000, 5, 2048, 1});
  std::vector<ParameterSpec> mixed = plain;
  mixed[0].weight_dtype = DType::kFp32;
  mixed[1].frozen = true;
  mixed[2].gradient_dtype = DType::kFp32;
  mixed[3].group = 1;
  LayoutOptions options = {.bucket_bytes = 4096, .world_size = 3, .ranks_by_position = {2, 0, 1}};
  options.groups.resize(2);
  const auto a = ShardLayout::Create(plain, {});
  const auto b = ShardLayout::Create(mixed, options);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(a->total_elements(), 5054);
  EXPECT_EQ(b->total_elements(), 5054);
  for (int p = 0; p < 4; ++p) {
    EXPECT_EQ(b->FindParameter(plain[p].name), p);
    EXPECT_EQ(a->global_begin_element(p), b->global_begin_element(p));
  }
  for (int64_t element = 0; element < 5054; ++element) ASSERT_EQ(a->Locate(element), b->Locate(element));
}

TEST(ShardLayoutTest, L5ShardsFollowThePositionsOfRanks) {
  const LayoutOptions options = {.world_size = 4, .ranks_by_position = {0, 2, 3, 1}};
  const auto layout = ShardLayout::Create(Specs({4 * kBlock}), options);
  ASSERT_TRUE(layout.ok());
  for (int position = 0; position < 4; ++position) {
    const int rank = options.ranks_by_position[position];
    EXPECT_EQ(layout->position(rank), position);
    const auto segments = layout->Segments(0, rank);
    ASSERT_EQ(segments.size(), 1u);
    EXPECT_EQ(segments[0].begin_element, position * kBlock);
    const auto owners = layout->Owners(0, position * kBlock, (position + 1) * kBlock);
    ASSERT_EQ(owners.size(), 1u);
    EXPECT_EQ(owners[0].rank, rank);
  }
  const auto in_order = ShardLayout::Create(Specs({1}), {.world_size = 3});
  EXPECT_EQ(in_order->position(2), 2);
}

TEST(ShardLayoutTest, M3ATiedParameterIsItsOwner) {
  const std::vector<ParameterSpec> specs = {
      {.name = "first", .shape = {7}},
      {.name = "embedding", .shape = {3, 1000}, .norm_weight = 0.5},
      {.name = "head", .shape = {3, 1000}, .tied_to = "embedding", .norm_weight = 0.5},
      {.name = "bias", .shape = {2}},
      {.name = "again", .shape = {3, 1000}, .tied_to = "head", .norm_weight = 0.5}};
  const auto layout = ShardLayout::Create(specs, {.bucket_bytes = 2048});
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(layout->total_elements(), 3009);
  EXPECT_EQ(layout->gradient_arena_bytes(), 5 * kBlock * 2);
  EXPECT_EQ(layout->global_begin_element(2), 3007);
  EXPECT_EQ(layout->global_begin_element(3), 3007);
  EXPECT_EQ(layout->global_begin_element(4), 3009);
  EXPECT_EQ(layout->Locate(3007), std::pair(3, int64_t{0}));
  EXPECT_EQ(layout->Locate(3008), std::pair(3, int64_t{1}));
  EXPECT_EQ(layout->owner(1), 1);
  for (const int p : {2, 4}) {
    EXPECT_EQ(layout->owner(p), 1);
    EXPECT_EQ(layout->elements(p), 3000);
    EXPECT_EQ(layout->gradient_begin_byte(p), layout->gradient_begin_byte(1));
    EXPECT_EQ(layout->weight_begin_byte(p), layout->weight_begin_byte(1));
    EXPECT_THAT(layout->buckets_of(p), ElementsAre(1, 2, 3));
    EXPECT_EQ(layout->Owners(p, 0, 3000).size(), 3u);
    EXPECT_EQ(layout->FindParameter(specs[p].name), p);
  }
  for (int b = 0; b < layout->bucket_count(); ++b) {
    for (const int p : layout->parameters_of(b)) EXPECT_EQ(layout->owner(p), p);
  }
}

TEST(ShardLayoutTest, L2EmptyScalarAndTinyParameters) {
  const std::vector<ParameterSpec> specs = {
      {.name = "empty", .shape = {0, 7}}, {.name = "scalar"},
      {.name = "tiny", .shape = {3}},     {.name = "no fp32", .shape = {0}, .gradient_dtype = DType::kFp32},
      {.name = "last", .shape = {0}},     {.name = "tied", .shape = {0}, .tied_to = "last"}};
  const auto layout = ShardLayout::Create(specs, {.bucket_bytes = 1, .world_size = 8});
  ASSERT_TRUE(layout.ok());
  EXPECT_EQ(layout->total_elements(), 4);
  EXPECT_EQ(layout->gradient_arena_bytes(), 8 * kBlock * 2);
  EXPECT_EQ(layout->bucket_count(), 1);
  EXPECT_EQ(layout->elements(1), 1);
  for (const int p : {0, 3, 4, 5}) {
    EXPECT_THAT(layout->buckets_of(p), IsEmpty());
    EXPECT_LE(layout->gradient_begin_byte(p), layout->gradient_arena_bytes());
    EXPECT_TRUE(layout->Owners(p, 0, 0).empty());
  }
  EXPECT_EQ(layout->Locate(0), std::pair(1, int64_t{0}));
  int owners = 0;
  for (int rank = 0; rank < 8; ++rank) owners += layout->Segments(0, rank).empty() ? 0 : 1;
  EXPECT_EQ(owners, 2);
  EXPECT_EQ(layout->FindParameter("tiny"), 2);
  EXPECT_EQ(layout->FindParameter("tin"), -1);
}

TEST(ShardLayoutTest, L2NothingAtAll) {
  for (const auto& sizes : {std::vector<int64_t>{}, std::vector<int64_t>{0, 0}}) {
    const auto layout = ShardLayout::Create(Specs(sizes), {.world_size = 4});
    ASSERT_TRUE(layout.ok());
    EXPECT_EQ(layout->bucket_count(), 0);
    EXPECT_EQ(layout->gradient_arena_bytes(), 0);
    EXPECT_EQ(layout->weight_arena_bytes(), 0);
  }
}

TEST(ShardLayoutTest, L3CountsBeyondIntDoNotWrap) {
  const int64_t giant = (int64_t{1} << 40) - 1;
  std::vector<ParameterSpec> specs = Specs({giant, 1});
  specs[0].weight_dtype = DType::kFp32;
  const auto layout = ShardLayout::Create(specs, {.bucket_bytes = int64_t{1} << 34, .world_size = 3});
  ASSERT_TRUE(layout.ok());
  const auto ranges = layout->Owners(0, giant - 1, giant);
  ASSERT_EQ(ranges.size(), 1u);
  EXPECT_EQ(ranges[0].bucket, 1);
  int64_t owned = 0;
  for (const OwnedRange& range : layout->Owners(0, 0, giant)) owned += range.elements;
  EXPECT_EQ(owned, giant);
  EXPECT_EQ(layout->Locate(giant), std::pair(1, int64_t{0}));
  EXPECT_GE(layout->weight_arena_bytes(), 4 * giant);

  // Limits: neither a bucket nor a world beyond every size overflows.
  constexpr int kMaxRanks = std::numeric_limits<int>::max();
  constexpr int64_t kMax64 = std::numeric_limits<int64_t>::max();
  const auto one_bucket = ShardLayout::Create(Specs({giant}), {.bucket_bytes = kMax64, .world_size = kMaxRanks});
  ASSERT_TRUE(one_bucket.ok());
  EXPECT_EQ(one_bucket->shard_elements(0), kBlock);
  EXPECT_EQ(one_bucket->position(kMaxRanks - 1), kMaxRanks - 1);
  // Nor does the padding of many kinds: 2^42 bytes each here.
  std::vector<ParameterSpec> kinds = Specs(std::vector<int64_t>(300, 1));
  LayoutOptions options = {.world_size = kMaxRanks, .groups = std::vector<UpdateKind>(300)};
  for (size_t p = 0; p < kinds.size(); ++p) kinds[p].group = static_cast<int>(p);
  EXPECT_THAT(std::string(ShardLayout::Create(kinds, options).status().message()),
              HasSubstr("\"p256\": with the padding of its kind, more than 2^50 bytes"));
}

std::string ErrorOf(std::vector<ParameterSpec> specs, const LayoutOptions& options = {}) {
  const auto layout = ShardLayout::Create(std::move(specs), options);
  EXPECT_EQ(layout.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(layout.status().message());
}

TEST(ShardLayoutTest, RefusesParametersByName) {
  constexpr int64_t kMax64 = std::numeric_limits<int64_t>::max();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  EXPECT_THAT(ErrorOf({{.name = "w"}, {.name = ""}}), HasSubstr("parameter 1 has no name"));
  EXPECT_THAT(ErrorOf({{.name = "w", .shape = {2, -1}}}), HasSubstr("\"w\": shape[1] = -1"));
  EXPECT_THAT(ErrorOf({{.name = "w", .shape = {0, -1}}}), HasSubstr("\"w\": shape[1] = -1"));
  EXPECT_THAT(ErrorOf({{.name = "w", .shape = {kMax64, kMax64}}}), HasSubstr("\"w\": more than 2^40"));
  EXPECT_THAT(ErrorOf({{.name = "v", .shape = {int64_t{1} << 40}}, {.name = "w"}}), HasSubstr("\"w\": with it"));
  EXPECT_THAT(ErrorOf({{.name = "w", .group = -2}}), HasSubstr("\"w\": group -2"));
  EXPECT_THAT(ErrorOf({{.name = "w", .group = 1}}), HasSubstr("\"w\": group 1 is not one of the 1"));
  EXPECT_THAT(ErrorOf({{.name = "w", .weight_dtype = DType::kFp16}}), HasSubstr("\"w\": weight_dtype is fp16"));
  EXPECT_THAT(ErrorOf({{.name = "w", .gradient_dtype = DType::kFp16}}), HasSubstr("\"w\": gradient_dtype is fp16"));
  for (const double bad : {-0.5, kInfinity, -kInfinity, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_THAT(ErrorOf({{.name = "w", .norm_weight = bad}}), HasSubstr("\"w\": norm_weight = "));
  }
  EXPECT_EQ(*ElementCount({.name = "w", .shape = {kMax64, 0, kMax64}}), 0);
  EXPECT_EQ(*ElementCount({.name = "w", .shape = {3, 4}}), 12);
}

TEST(ShardLayoutTest, RefusesOptionsByName) {
  EXPECT_THAT(ErrorOf({}, {.bucket_bytes = 0}), HasSubstr("bucket_bytes = 0"));
  EXPECT_THAT(ErrorOf({}, {.world_size = 0}), HasSubstr("world_size = 0"));
  const auto error = [](std::vector<int> ranks) {
    return ErrorOf({}, {.world_size = 3, .ranks_by_position = std::move(ranks)});
  };
  EXPECT_THAT(error({0, 1}), HasSubstr("ranks_by_position has 2 ranks of 3"));
  EXPECT_THAT(error({0, 1, 2, 3}), HasSubstr("ranks_by_position has 4 ranks of 3"));
  EXPECT_THAT(error({0, 2, 0}), HasSubstr("ranks_by_position[2] = 0"));
  EXPECT_THAT(error({0, 3, 1}), HasSubstr("ranks_by_position[1] = 3"));
  EXPECT_THAT(error({-1, 0, 1}), HasSubstr("ranks_by_position[0] = -1"));
}

TEST(ShardLayoutTest, M3RefusesBadTies) {
  const ParameterSpec w = {.name = "w", .shape = {6, 2}};
  const auto error = [&w](const ParameterSpec& tied) {
    LayoutOptions options;
    options.groups.resize(2);
    return ErrorOf({w, tied, {.name = "later", .shape = {6, 2}}}, options);
  };
  ParameterSpec tied = w;
  EXPECT_THAT(error(tied), AllOf(HasSubstr("\"w\": is registered twice"), HasSubstr("tied_to")));
  tied.name = "t";
  for (const std::string other : {"later", "unknown"}) {
    tied.tied_to = other;
    EXPECT_THAT(error(tied), HasSubstr(absl::StrCat("\"t\": tied_to \"", other, "\" names no earlier")));
  }
  tied.tied_to = "t";
  EXPECT_THAT(error(tied), HasSubstr("\"t\": is tied to itself"));

  tied.tied_to = "w";
  const auto differs = [&](auto ParameterSpec::*field, auto value) {
    ParameterSpec other = tied;
    other.*field = value;
    return error(other);
  };
  const std::string start = "\"t\": is tied to \"w\" and differs from it in ";
  EXPECT_THAT(differs(&ParameterSpec::shape, std::vector<int64_t>{12}), HasSubstr(start + "shape"));
  EXPECT_THAT(differs(&ParameterSpec::group, 1), HasSubstr(start + "group"));
  EXPECT_THAT(differs(&ParameterSpec::weight_dtype, DType::kFp32), HasSubstr(start + "weight_dtype"));
  EXPECT_THAT(differs(&ParameterSpec::gradient_dtype, DType::kFp32), HasSubstr(start + "gradient_dtype"));
  EXPECT_THAT(differs(&ParameterSpec::frozen, true), HasSubstr(start + "frozen"));
  EXPECT_THAT(differs(&ParameterSpec::norm_weight, 0.5), HasSubstr(start + "norm_weight"));
}

}  // namespace
}  // namespace shardstep
