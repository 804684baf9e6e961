#include "shardstep/optimizer/shard_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace shardstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kBlock = 1024;

int64_t Blocks(int64_t elements) { return (elements + kBlock - 1) / kBlock; }

std::vector<int> ToVector(absl::Span<const int> span) { return {span.begin(), span.end()}; }

std::vector<ParameterSpec> Specs(const std::vector<int64_t>& sizes) {
  std::vector<ParameterSpec> specs;
  for (const int64_t size : sizes) specs.push_back({.name = absl::StrCat("p", specs.size()), .shape = {size}});
  return specs;
}

BucketKind KindOf(const ParameterSpec& spec, const LayoutOptions& options) {
  return {.group = spec.group,
          .update = options.groups[spec.group],
          .weight_dtype = spec.weight_dtype,
          .gradient_dtype = spec.gradient_dtype,
          .frozen = spec.frozen};
}

// Where one block of a parameter lives, as the segments of all ranks tell it.
struct Home {
  int bucket = 0;
  int rank = 0;
  int64_t in_shard = 0;
  int64_t elements = 0;
};
using HomeMap = std::map<std::pair<int, int64_t>, Home>;

struct Case {
  std::vector<ParameterSpec> specs;
  LayoutOptions options;
};

class Random {
 public:
  explicit Random(uint64_t seed) : random_(seed) {}

  int64_t Below(int64_t n) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(n)); }
  bool OneIn(int64_t n) { return Below(n) == 0; }

  Case MakeCase(bool many_ranks) {
    Case c;
    c.options.world_size = static_cast<int>(1 + Below(many_ranks ? 33 : 8));
    const int64_t unit = kBlock * c.options.world_size;
    c.options.bucket_bytes = 1 + Below(10 * unit);
    if (OneIn(2)) {
      c.options.ranks_by_position.resize(c.options.world_size);
      std::iota(c.options.ranks_by_position.begin(), c.options.ranks_by_position.end(), 0);
      std::shuffle(c.options.ranks_by_position.begin(), c.options.ranks_by_position.end(), random_);
    }
    c.options.groups.resize(1 + Below(3));
    c.options.groups.back().master = Master::kSplit;
    const bool one_kind = OneIn(4);
    for (int64_t p = Below(10); p > 0; --p) {
      const auto name = absl::StrCat("p", c.specs.size());
      if (!c.specs.empty() && OneIn(8)) {
        ParameterSpec tied = c.specs[Below(static_cast<int64_t>(c.specs.size()))];
        tied.tied_to = tied.name;
        tied.name = name;
        c.specs.push_back(tied);
        continue;
      }
      ParameterSpec spec = {.name = name, .shape = {Size(unit)}};
      if (!one_kind) {
        spec.group = static_cast<int>(Below(static_cast<int64_t>(c.options.groups.size())));
        spec.weight_dtype = OneIn(3) ? DType::kFp32 : DType::kBf16;
        spec.gradient_dtype = OneIn(3) ? DType::kFp32 : DType::kBf16;
        spec.frozen = OneIn(4);
      }
      spec.norm_weight = static_cast<double>(Below(3)) / 2;
      c.specs.push_back(spec);
    }
    return c;
  }

 private:
  int64_t Size(int64_t unit) {
    switch (Below(6)) {
      case 0:
        return Below(2);
      case 1:
        return Below(unit) * 5;
      case 2:
        return Below(6) * unit;
      case 3:
        return Below(6) * kBlock;
      default:
        return Below(3 * kBlock);
    }
  }

  std::mt19937_64 random_;
};

void CheckSegment(const ShardLayout& layout, int b, int rank, const Segment& s) {
  const ParameterSpec& spec = layout.parameter(s.parameter);
  EXPECT_GT(s.elements, 0);
  EXPECT_EQ(s.begin_element % kBlock, 0);
  EXPECT_EQ(s.shard_begin_element % kBlock, 0);
  EXPECT_TRUE(s.elements % kBlock == 0 || s.begin_element + s.elements == layout.elements(s.parameter));
  EXPECT_EQ(s.scalars, spec.group);
  EXPECT_EQ(s.norm_weight, spec.norm_weight);
  EXPECT_EQ(s.global_begin_element, layout.global_begin_element(s.parameter) + s.begin_element);
  EXPECT_EQ(spec.tied_to, "");
  const int64_t in_bucket = layout.position(rank) * layout.shard_elements(b) + s.shard_begin_element;
  EXPECT_EQ(layout.bucket_gradient_begin_byte(b) + in_bucket * SizeBytes(spec.gradient_dtype),
            layout.gradient_begin_byte(s.parameter) + s.begin_element * SizeBytes(spec.gradient_dtype));
  EXPECT_EQ(layout.bucket_weight_begin_byte(b) + in_bucket * SizeBytes(spec.weight_dtype),
            layout.weight_begin_byte(s.parameter) + s.begin_element * SizeBytes(spec.weight_dtype));
}

// Every block of every parameter is in exactly one segment, where the arenas' own arithmetic puts it.
HomeMap CollectHomes(const ShardLayout& layout) {
  HomeMap homes;
  for (int b = 0; b < layout.bucket_count(); ++b) {
    for (int rank = 0; rank < layout.world_size(); ++rank) {
      int64_t shard_end = 0;
      for (const Segment& s : layout.Segments(b, rank)) {
        CheckSegment(layout, b, rank, s);
        EXPECT_GE(s.shard_begin_element, shard_end);
        shard_end = s.shard_begin_element + s.elements;
        EXPECT_LE(shard_end, layout.shard_elements(b));
        for (int64_t i = 0; i < s.elements; i += kBlock) {
          const Home home = {b, rank, s.shard_begin_element + i, std::min(kBlock, s.elements - i)};
          EXPECT_TRUE(homes.emplace(std::pair(s.parameter, (s.begin_element + i) / kBlock), home).second);
        }
      }
    }
  }
  for (int p = 0; p < layout.parameter_count(); ++p) {
    if (layout.owner(p) != p) continue;
    for (int64_t block = 0; block < Blocks(layout.elements(p)); ++block) {
      const auto home = homes.find({p, block});
      if (home == homes.end()) {
        ADD_FAILURE() << "nobody owns block " << block << " of " << p;
      } else {
        EXPECT_EQ(home->second.elements, std::min(kBlock, layout.elements(p) - block * kBlock));
      }
    }
  }
  return homes;
}

void CheckNumbering(const ShardLayout& layout) {
  int64_t global = 0;
  for (int p = 0; p < layout.parameter_count(); ++p) {
    EXPECT_EQ(layout.global_begin_element(p), global);
    if (layout.owner(p) != p || layout.elements(p) == 0) continue;
    for (const int64_t element : {int64_t{0}, layout.elements(p) - 1}) {
      EXPECT_EQ(layout.Locate(global + element), std::pair(p, element));
    }
    global += layout.elements(p);
  }
  EXPECT_EQ(layout.total_elements(), global);
}

using Ranges = std::vector<std::pair<int64_t, int64_t>>;  // of bytes

void CheckApart(Ranges ranges, int64_t arena_bytes, bool without_gaps) {
  std::sort(ranges.begin(), ranges.end());
  int64_t end = 0;
  for (const auto& [range_begin, range_end] : ranges) {
    EXPECT_GE(range_begin, end);
    EXPECT_EQ(range_begin % 64, 0);
    if (without_gaps) {
      EXPECT_EQ(range_begin, end);
    }
    end = range_end;
  }
  EXPECT_LE(end, arena_bytes);
  if (without_gaps) {
    EXPECT_EQ(end, arena_bytes);
  }
}

// Buckets tile both arenas, and parameters lie apart in them, kind after kind and in registration order.
void CheckArenas(const ShardLayout& layout, const LayoutOptions& options) {
  Ranges gradient_buckets, weight_buckets, gradients, weights;
  for (int b = 0; b < layout.bucket_count(); ++b) {
    const int64_t size = layout.shard_elements(b) * layout.world_size();
    const int64_t gradient_begin = layout.bucket_gradient_begin_byte(b);
    const int64_t weight_begin = layout.bucket_weight_begin_byte(b);
    gradient_buckets.emplace_back(gradient_begin, gradient_begin + size * SizeBytes(layout.kind(b).gradient_dtype));
    weight_buckets.emplace_back(weight_begin, weight_begin + size * SizeBytes(layout.kind(b).weight_dtype));
  }
  std::vector<BucketKind> kinds;
  std::vector<std::pair<std::pair<int, int>, std::pair<int64_t, int64_t>>> order;
  for (int p = 0; p < layout.parameter_count(); ++p) {
    const ParameterSpec& spec = layout.parameter(p);
    EXPECT_LE(layout.gradient_begin_byte(p), layout.gradient_arena_bytes());
    EXPECT_LE(layout.weight_begin_byte(p), layout.weight_arena_bytes());
    if (layout.owner(p) != p) continue;
    const int64_t g = layout.gradient_begin_byte(p);
    const int64_t w = layout.weight_begin_byte(p);
    gradients.emplace_back(g, g + layout.elements(p) * SizeBytes(spec.gradient_dtype));
    weights.emplace_back(w, w + layout.elements(p) * SizeBytes(spec.weight_dtype));
    const BucketKind kind = KindOf(spec, options);
    const auto found = std::find(kinds.begin(), kinds.end(), kind);
    order.push_back({{static_cast<int>(found - kinds.begin()), p}, {g, w}});
    if (found == kinds.end()) kinds.push_back(kind);
  }
  CheckApart(gradient_buckets, layout.gradient_arena_bytes(), /*without_gaps=*/true);
  CheckApart(weight_buckets, layout.weight_arena_bytes(), /*without_gaps=*/true);
  CheckApart(gradients, layout.gradient_arena_bytes(), /*without_gaps=*/false);
  CheckApart(weights, layout.weight_arena_bytes(), /*without_gaps=*/false);
  std::sort(order.begin(), order.end());
  for (size_t i = 1; i < order.size(); ++i) {
    EXPECT_GE(order[i].second.first, order[i - 1].second.first);
    EXPECT_GE(order[i].second.second, order[i - 1].second.second);
  }
}

void CheckBuckets(const ShardLayout& layout, const LayoutOptions& options, const HomeMap& homes) {
  const int64_t unit = kBlock * layout.world_size();
  std::vector<BucketKind> kinds_done;  // from the last bucket to the first
  int64_t lowest_above = -1;
  for (int b = layout.bucket_count() - 1; b >= 0; --b) {
    const BucketKind& kind = layout.kind(b);
    const int64_t capacity = std::max(options.bucket_bytes / SizeBytes(kind.gradient_dtype) / unit, int64_t{1}) * unit;
    const int64_t size = layout.shard_elements(b) * layout.world_size();
    EXPECT_EQ(layout.shard_elements(b) % kBlock, 0);
    EXPECT_LE(size, capacity);

    int64_t padded_elements = 0;
    int64_t lowest = layout.total_elements();
    std::vector<int> here;
    for (const auto& [place, home] : homes) {
      if (home.bucket != b) continue;
      padded_elements += kBlock;
      lowest = std::min(lowest, layout.global_begin_element(place.first) + place.second * kBlock);
      if (here.empty() || here.back() != place.first) here.push_back(place.first);
      EXPECT_EQ(KindOf(layout.parameter(place.first), options), kind);
    }
    EXPECT_EQ(ToVector(layout.parameters_of(b)), here);
    EXPECT_LT(size - padded_elements, unit) << "more padding than rounding up takes";
    EXPECT_GT(lowest, lowest_above) << "bucket " << b << " completes after " << b + 1;
    lowest_above = lowest;
    if (std::find(kinds_done.begin(), kinds_done.end(), kind) == kinds_done.end()) {
      kinds_done.push_back(kind);
    } else {
      EXPECT_GT(padded_elements, capacity - unit) << "not filled";
    }
  }
}

void CheckBucketsOf(const ShardLayout& layout, const HomeMap& homes) {
  const int64_t unit = kBlock * layout.world_size();
  for (int p = 0; p < layout.parameter_count(); ++p) {
    const int owner = layout.owner(p);
    std::set<int> buckets;
    for (int64_t block = 0; block < Blocks(layout.elements(p)); ++block) {
      buckets.insert(homes.at({owner, block}).bucket);
      if (block == 0 || homes.at({owner, block}).bucket == homes.at({owner, block - 1}).bucket) continue;
      EXPECT_EQ(block * kBlock % unit, 0) << "cut inside a unit";
    }
    EXPECT_EQ(ToVector(layout.buckets_of(p)), std::vector<int>(buckets.begin(), buckets.end()));
    EXPECT_EQ(layout.gradient_begin_byte(p), layout.gradient_begin_byte(owner));
    EXPECT_EQ(layout.weight_begin_byte(p), layout.weight_begin_byte(owner));
  }
}

// Owners of [begin, end) are the homes of its elements, in order and without a gap.
void CheckOwners(const ShardLayout& layout, const HomeMap& homes, int p, int64_t begin, int64_t end) {
  int64_t element = begin;
  for (const OwnedRange& range : layout.Owners(p, begin, end)) {
    EXPECT_EQ(range.begin_element, element);
    EXPECT_GT(range.elements, 0);
    for (int64_t i = 0; i < range.elements;) {
      const Home& home = homes.at({layout.owner(p), (element + i) / kBlock});
      EXPECT_EQ(std::pair(range.bucket, range.rank), std::pair(home.bucket, home.rank));
      EXPECT_EQ(range.shard_begin_element + i, home.in_shard + (element + i) % kBlock);
      i += kBlock - (element + i) % kBlock;
    }
    element += range.elements;
  }
  EXPECT_EQ(element, end);
}

TEST(ShardLayoutTest, L1EveryElementIsOwnedOnce) {
  Random random(1);
  for (int i = 0; i < 10000; ++i) {
    SCOPED_TRACE(absl::StrCat("case ", i));
    const Case c = random.MakeCase(/*many_ranks=*/i % 10 == 0);
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
  Random random(2);
  for (int i = 0; i < 1000; ++i) {
    SCOPED_TRACE(absl::StrCat("case ", i));
    const Case c = random.MakeCase(/*many_ranks=*/false);
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
