#ifndef SHARDSTEP_TESTS_OPTIMIZER_LAYOUT_CHECKS_H_
#define SHARDSTEP_TESTS_OPTIMIZER_LAYOUT_CHECKS_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "shardstep/optimizer/shard_layout.h"

/// LayoutRandom layouts, and what holds of every one.

namespace shardstep {

inline constexpr int64_t kBlock = 1024;

inline int64_t Blocks(int64_t elements) { return (elements + kBlock - 1) / kBlock; }

inline std::vector<int> ToVector(absl::Span<const int> span) { return {span.begin(), span.end()}; }

inline BucketKind KindOf(const ParameterSpec& spec, const LayoutOptions& options) {
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

/// What a layout is made of.
struct LayoutCase {
  std::vector<ParameterSpec> specs;
  LayoutOptions options;
};

class LayoutRandom {
 public:
  explicit LayoutRandom(uint64_t seed) : random_(seed) {}

  int64_t Below(int64_t n) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(n)); }
  bool OneIn(int64_t n) { return Below(n) == 0; }

  LayoutCase MakeCase(bool many_ranks) {
    LayoutCase c;
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

inline void CheckSegment(const ShardLayout& layout, int b, int rank, const Segment& s) {
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
inline HomeMap CollectHomes(const ShardLayout& layout) {
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

inline void CheckNumbering(const ShardLayout& layout) {
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

inline void CheckApart(Ranges ranges, int64_t arena_bytes, bool without_gaps) {
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
inline void CheckArenas(const ShardLayout& layout, const LayoutOptions& options) {
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

inline void CheckBuckets(const ShardLayout& layout, const LayoutOptions& options, const HomeMap& homes) {
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

inline void CheckBucketsOf(const ShardLayout& layout, const HomeMap& homes) {
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
inline void CheckOwners(const ShardLayout& layout, const HomeMap& homes, int p, int64_t begin, int64_t end) {
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

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_OPTIMIZER_LAYOUT_CHECKS_H_
