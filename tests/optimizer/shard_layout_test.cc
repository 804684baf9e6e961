#include "shardstep/optimizer/shard_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace shardstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kBlock = 1024;

std::vector<ParameterSpec> Specs(const std::vector<int64_t>& sizes) {
  std::vector<ParameterSpec> specs;
  for (const int64_t size : sizes) {
    const int p = static_cast<int>(specs.size());
    specs.push_back({.name = absl::StrCat("p", p), .shape = {size}, .group = p % 3});
  }
  return specs;
}

int64_t Blocks(int64_t elements) { return (elements + kBlock - 1) / kBlock; }

// Where one block of a parameter lives, as the segments of all ranks tell it.
struct Home {
  int bucket = 0;
  int rank = 0;
  int64_t in_shard = 0;
  int64_t elements = 0;
  bool operator==(const Home&) const = default;
};
using HomeMap = std::map<std::pair<int, int64_t>, Home>;

// Every block of every parameter is in exactly one segment, where the arena's own arithmetic puts it.
HomeMap CollectHomes(const ShardLayout& layout) {
  HomeMap homes;
  for (int b = 0; b < layout.bucket_count(); ++b) {
    for (int rank = 0; rank < layout.world_size(); ++rank) {
      int64_t shard_end = 0;
      for (const Segment& s : layout.Segments(b, rank)) {
        EXPECT_GT(s.elements, 0);
        EXPECT_EQ(s.begin_element % kBlock, 0);
        EXPECT_EQ(s.shard_begin_element % kBlock, 0);
        EXPECT_GE(s.shard_begin_element, shard_end);
        shard_end = s.shard_begin_element + s.elements;
        EXPECT_LE(shard_end, layout.shard_elements(b));
        EXPECT_TRUE(s.elements % kBlock == 0 || s.begin_element + s.elements == layout.elements(s.parameter));
        EXPECT_EQ(layout.bucket_begin_element(b) + rank * layout.shard_elements(b) + s.shard_begin_element,
                  layout.arena_begin_element(s.parameter) + s.begin_element);
        EXPECT_EQ(s.group, layout.parameter(s.parameter).group);
        for (int64_t i = 0; i < s.elements; i += kBlock) {
          const Home home = {b, rank, s.shard_begin_element + i, std::min(kBlock, s.elements - i)};
          EXPECT_TRUE(homes.emplace(std::pair(s.parameter, (s.begin_element + i) / kBlock), home).second);
        }
      }
    }
  }
  for (int p = 0; p < layout.parameter_count(); ++p) {
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

void CheckArena(const ShardLayout& layout) {
  int64_t end = 0;
  int64_t global = 0;
  for (int p = 0; p < layout.parameter_count(); ++p) {
    EXPECT_EQ(layout.arena_begin_element(p) % kBlock, 0);
    EXPECT_GE(layout.arena_begin_element(p), end) << p;
    end = layout.arena_begin_element(p) + layout.elements(p);
    EXPECT_EQ(layout.global_begin_element(p), global);
    for (const int64_t element : {int64_t{0}, layout.elements(p) - 1}) {
      if (layout.elements(p) > 0) {
        EXPECT_EQ(layout.Locate(global + element), std::pair(p, element));
      }
    }
    global += layout.elements(p);
  }
  EXPECT_LE(end, layout.arena_elements());
  EXPECT_EQ(layout.total_elements(), global);
}

void CheckBuckets(const ShardLayout& layout, int64_t capacity, const HomeMap& homes) {
  const int64_t unit = kBlock * layout.world_size();
  int64_t end = layout.arena_elements();
  int64_t state = 0;
  for (int b = 0; b < layout.bucket_count(); ++b) {
    const int64_t size = layout.shard_elements(b) * layout.world_size();
    EXPECT_EQ(layout.shard_elements(b) % kBlock, 0);
    EXPECT_LE(size, capacity);
    EXPECT_EQ(layout.bucket_begin_element(b), end - size);
    EXPECT_EQ(layout.state_begin_element(b), state);
    end -= size;
    state += layout.shard_elements(b);

    int64_t padded_elements = 0;
    std::vector<int> here;
    for (const auto& [place, home] : homes) {
      if (home.bucket != b) continue;
      padded_elements += kBlock;
      if (here.empty() || here.back() != place.first) here.push_back(place.first);
    }
    EXPECT_EQ(std::vector<int>(layout.parameters_of(b).begin(), layout.parameters_of(b).end()), here);
    EXPECT_LT(size - padded_elements, unit) << "more padding than rounding up takes";
    if (b + 1 < layout.bucket_count()) {
      EXPECT_GT(padded_elements, capacity - unit) << "not filled";
    }
  }
  EXPECT_EQ(end, 0);
  EXPECT_EQ(state, layout.state_elements());
  for (int p = 0; p < layout.parameter_count(); ++p) {
    if (layout.elements(p) == 0) {
      EXPECT_EQ(layout.buckets_of(p), std::pair(0, -1));
      continue;
    }
    EXPECT_EQ(layout.buckets_of(p),
              std::pair(homes.at({p, Blocks(layout.elements(p)) - 1}).bucket, homes.at({p, 0}).bucket));
    for (int64_t block = 1; block < Blocks(layout.elements(p)); ++block) {
      if (homes.at({p, block}).bucket == homes.at({p, block - 1}).bucket) continue;
      EXPECT_EQ(block * kBlock % unit, 0) << "cut inside a unit";
    }
  }
}

// Owners of [begin, end) are the homes of its elements, in order and without a gap.
void CheckOwners(const ShardLayout& layout, const HomeMap& homes, int p, int64_t begin, int64_t end) {
  int64_t element = begin;
  for (const OwnedRange& range : layout.Owners(p, begin, end)) {
    EXPECT_EQ(range.begin_element, element);
    EXPECT_GT(range.elements, 0);
    for (int64_t i = 0; i < range.elements;) {
      const Home& home = homes.at({p, (element + i) / kBlock});
      EXPECT_EQ(std::pair(range.bucket, range.rank), std::pair(home.bucket, home.rank));
      EXPECT_EQ(range.state_begin_element + i,
                layout.state_begin_element(home.bucket) + home.in_shard + (element + i) % kBlock);
      i += kBlock - (element + i) % kBlock;
    }
    element += range.elements;
  }
  EXPECT_EQ(element, end);
}

TEST(ShardLayoutTest, L1EveryElementIsOwnedOnce) {
  std::mt19937_64 random(1);
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % static_cast<uint64_t>(n)); };
  for (int i = 0; i < 10000; ++i) {
    SCOPED_TRACE(absl::StrCat("case ", i));
    const int world_size = static_cast<int>(1 + below(i % 10 == 0 ? 33 : 8));
    const int64_t unit = kBlock * world_size;
    std::vector<int64_t> sizes(below(9));
    for (int64_t& size : sizes) {
      switch (below(6)) {
        case 0:
          size = below(2);
          break;
        case 1:
          size = below(unit) * 5;
          break;
        case 2:
          size = below(6) * unit;
          break;
        case 3:
          size = below(6) * kBlock;
          break;
        default:
          size = below(3 * kBlock);
      }
    }
    const int64_t bucket_bytes = 1 + below(10 * unit);
    const auto layout = ShardLayout::Create(Specs(sizes), bucket_bytes, world_size);
    ASSERT_TRUE(layout.ok()) << layout.status();
    const HomeMap homes = CollectHomes(*layout);
    CheckArena(*layout);
    CheckBuckets(*layout, std::max(bucket_bytes / 2 / unit, int64_t{1}) * unit, homes);
    for (int p = 0; p < layout->parameter_count(); ++p) {
      CheckOwners(*layout, homes, p, 0, layout->elements(p));
      const int64_t begin = below(layout->elements(p) + 1);
      CheckOwners(*layout, homes, p, begin, begin + below(layout->elements(p) - begin + 1));
    }
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(ShardLayoutTest, PaddingOfABucketFollowsItsFirstParameter) {
  // One bucket of 4 blocks: p0 has one, then the padding, then p1 and p2 up to the end.
  const auto layout = ShardLayout::Create(Specs({10, 1024, 1}), 1 << 20, 2);
  ASSERT_TRUE(layout.ok());
  EXPECT_EQ(layout->arena_elements(), 4 * kBlock);
  EXPECT_EQ(layout->arena_begin_element(0), 0);
  EXPECT_EQ(layout->arena_begin_element(1), 2 * kBlock);
  EXPECT_EQ(layout->arena_begin_element(2), 3 * kBlock);
}

TEST(ShardLayoutTest, ABucketInsideOneParameterHasNoPadding) {
  // Units of 2 blocks, buckets of 2 units. From the end: p1 (1 block) and 3 blocks of p0 (its last one short) fill
  // bucket 0; the rest of p0 is 6 blocks.
  const auto layout = ShardLayout::Create(Specs({8 * kBlock + 1, 5}), 8 * kBlock, 2);
  ASSERT_TRUE(layout.ok());
  ASSERT_EQ(layout->bucket_count(), 3);
  EXPECT_EQ(layout->arena_elements(), 10 * kBlock);
  EXPECT_EQ(layout->shard_elements(0), 2 * kBlock);
  EXPECT_EQ(layout->shard_elements(1), 2 * kBlock);
  EXPECT_EQ(layout->shard_elements(2), 1 * kBlock);
  EXPECT_EQ(layout->buckets_of(0), std::pair(0, 2));
  EXPECT_EQ(layout->arena_begin_element(0), 0);
}

TEST(ShardLayoutTest, L2EmptyScalarAndTinyParameters) {
  std::vector<ParameterSpec> specs = {{.name = "empty", .shape = {0, 7}},
                                      {.name = "scalar"},
                                      {.name = "tiny", .shape = {3}, .group = 4},
                                      {.name = "last", .shape = {0}}};
  const auto layout = ShardLayout::Create(specs, 1, 8);
  ASSERT_TRUE(layout.ok());
  EXPECT_EQ(layout->total_elements(), 4);
  EXPECT_EQ(layout->arena_elements(), 8 * kBlock);
  EXPECT_EQ(layout->bucket_count(), 1);
  EXPECT_EQ(layout->elements(1), 1);
  EXPECT_EQ(layout->buckets_of(0), std::pair(0, -1));
  EXPECT_LE(layout->arena_begin_element(3), layout->arena_elements());
  EXPECT_EQ(layout->Locate(0), std::pair(1, int64_t{0}));
  int owners = 0;
  for (int rank = 0; rank < 8; ++rank) owners += layout->Segments(0, rank).empty() ? 0 : 1;
  EXPECT_EQ(owners, 2);
  EXPECT_TRUE(layout->Owners(0, 0, 0).empty());
  EXPECT_EQ(layout->FindParameter("tiny"), 2);
  EXPECT_EQ(layout->FindParameter("tin"), -1);
}

TEST(ShardLayoutTest, L2NothingAtAll) {
  for (const auto& sizes : {std::vector<int64_t>{}, std::vector<int64_t>{0, 0}}) {
    const auto layout = ShardLayout::Create(Specs(sizes), 1 << 20, 4);
    ASSERT_TRUE(layout.ok());
    EXPECT_EQ(layout->bucket_count(), 0);
    EXPECT_EQ(layout->arena_elements(), 0);
    EXPECT_EQ(layout->state_elements(), 0);
  }
}

TEST(ShardLayoutTest, L3CountsBeyondIntDoNotWrap) {
  const int64_t giant = (int64_t{1} << 40) - 1;
  const auto layout = ShardLayout::Create(Specs({giant, 1}), int64_t{1} << 34, 3);
  ASSERT_TRUE(layout.ok());
  const auto ranges = layout->Owners(0, giant - 1, giant);
  ASSERT_EQ(ranges.size(), 1u);
  EXPECT_EQ(ranges[0].bucket, 0);
  int64_t owned = 0;
  for (const OwnedRange& range : layout->Owners(0, 0, giant)) owned += range.elements;
  EXPECT_EQ(owned, giant);
  EXPECT_EQ(layout->Locate(giant), std::pair(1, int64_t{0}));

  // Limits: neither a bucket nor a world beyond every size overflows.
  constexpr int64_t kMax64 = std::numeric_limits<int64_t>::max();
  const auto one_bucket = ShardLayout::Create(Specs({giant}), kMax64, std::numeric_limits<int>::max());
  ASSERT_TRUE(one_bucket.ok());
  EXPECT_EQ(one_bucket->shard_elements(0), kBlock);
}

TEST(ShardLayoutTest, RefusesByName) {
  const auto error = [](std::vector<ParameterSpec> specs, int64_t bucket_bytes = 1024, int world_size = 1) {
    const auto layout = ShardLayout::Create(std::move(specs), bucket_bytes, world_size);
    EXPECT_EQ(layout.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(layout.status().message());
  };
  constexpr int64_t kMax64 = std::numeric_limits<int64_t>::max();
  EXPECT_THAT(error({{.name = "w"}, {.name = ""}}), HasSubstr("parameter 1 has no name"));
  EXPECT_THAT(error({{.name = "w"}, {.name = "w"}}), HasSubstr("\"w\" is registered twice"));
  EXPECT_THAT(error({{.name = "w", .shape = {2, -1}}}), HasSubstr("\"w\": shape[1] = -1"));
  EXPECT_THAT(error({{.name = "w", .shape = {0, -1}}}), HasSubstr("\"w\": shape[1] = -1"));
  EXPECT_THAT(error({{.name = "w", .shape = {kMax64, kMax64}}}), HasSubstr("\"w\": more than 2^40"));
  EXPECT_THAT(error({{.name = "v", .shape = {int64_t{1} << 40}}, {.name = "w"}}), HasSubstr("\"w\": with it"));
  EXPECT_THAT(error({{.name = "w", .group = -2}}), HasSubstr("\"w\": group -2"));
  EXPECT_THAT(error({{.name = "w", .weight_dtype = DType::kFp32}}), HasSubstr("\"w\": weight_dtype is fp32"));
  EXPECT_THAT(error({{.name = "w", .gradient_dtype = DType::kFp32}}), HasSubstr("\"w\": gradient_dtype is fp32"));
  EXPECT_THAT(error({}, 0), HasSubstr("bucket_bytes = 0"));
  EXPECT_THAT(error({}, 1024, 0), HasSubstr("world_size = 0"));
  EXPECT_EQ(*ElementCount({.name = "w", .shape = {kMax64, 0, kMax64}}), 0);
  EXPECT_EQ(*ElementCount({.name = "w", .shape = {3, 4}}), 12);
}

}  // namespace
}  // namespace shardstep
