#include "shardstep/optimizer/shard_layout.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shardstep {
namespace {

constexpr int64_t kMaxElements = int64_t{1} << 40;

// A multiple of `unit` >= value. Values stay below 2^43: 2^40 elements, at most a block of padding for each of 2^31
// parameters, and at most one unit of 2^41 per bucket.
int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

absl::Status CheckSpec(const ParameterSpec& spec) {
  if (spec.group < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("parameter \"", spec.name, "\": group ", spec.group, " is negative"));
  }
  for (const auto& [dtype, what] :
       {std::pair(spec.weight_dtype, "weight_dtype"), std::pair(spec.gradient_dtype, "gradient_dtype")}) {
    if (dtype != DType::kBf16) {
      return absl::InvalidArgumentError(
          absl::StrCat("parameter \"", spec.name, "\": ", what, " is fp32, and this build has kernels for bf16 only"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<int64_t> ElementCount(const ParameterSpec& parameter) {
  int64_t count = 1;
  for (size_t i = 0; i < parameter.shape.size(); ++i) {
    const int64_t extent = parameter.shape[i];
    if (extent < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("parameter \"", parameter.name, "\": shape[", i, "] = ", extent, " is negative"));
    }
    if (extent == 0) count = 0;
  }
  if (count == 0) return 0;
  for (const int64_t extent : parameter.shape) {
    if (count > kMaxElements / extent) {
      return absl::InvalidArgumentError(absl::StrCat("parameter \"", parameter.name, "\": more than 2^40 elements"));
    }
    count *= extent;
  }
  return count;
}

absl::StatusOr<ShardLayout> ShardLayout::Create(std::vector<ParameterSpec> parameters, int64_t bucket_bytes,
                                                int world_size) {
  if (world_size < 1) return absl::InvalidArgumentError(absl::StrCat("world_size = ", world_size, " is not positive"));
  if (bucket_bytes < 1) {
    return absl::InvalidArgumentError(absl::StrCat("bucket_bytes = ", bucket_bytes, " is not positive"));
  }
  ShardLayout layout;
  layout.world_size_ = world_size;
  for (ParameterSpec& spec : parameters) SHARDSTEP_RETURN_IF_ERROR(layout.AddParameter(std::move(spec)));
  const int64_t unit = kBlockElements * world_size;
  constexpr int64_t kGradientBytes = 2;
  layout.CutBuckets(std::max(bucket_bytes / kGradientBytes / unit, int64_t{1}) * unit);
  return layout;
}

absl::Status ShardLayout::AddParameter(ParameterSpec spec) {
  if (spec.name.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("parameter ", parameters_.size(), " has no name"));
  }
  SHARDSTEP_RETURN_IF_ERROR(CheckSpec(spec));
  SHARDSTEP_ASSIGN_OR_RETURN(const int64_t elements, ElementCount(spec));
  if (elements > kMaxElements - total_elements_) {
    return absl::InvalidArgumentError(
        absl::StrCat("parameter \"", spec.name, "\": with it, all parameters have more than 2^40 elements"));
  }
  if (!index_by_name_.emplace(spec.name, parameter_count()).second) {
    return absl::InvalidArgumentError(absl::StrCat("parameter \"", spec.name, "\" is registered twice"));
  }
  parameters_.push_back({.spec = std::move(spec), .elements = elements, .global_begin_element = total_elements_});
  total_elements_ += elements;
  return absl::OkStatus();
}

void ShardLayout::CutBuckets(int64_t capacity_elements) {
  const int64_t unit = kBlockElements * world_size_;
  int64_t left = 0;  // of the newest bucket
  int64_t used = 0;
  std::vector<int64_t> lowest_begins;  // per bucket: the element at which its lowest piece starts
  for (int p = parameter_count() - 1; p >= 0; --p) {
    Parameter& parameter = parameters_[p];
    for (int64_t end = parameter.elements; end > 0;) {
      // All of [0, end) if it fits; else what is left after the smallest head that makes the rest fit.
      const int64_t padded_end = RoundUp(end, kBlockElements);
      const int64_t begin = padded_end <= left ? 0 : RoundUp(padded_end - left, unit);
      if (begin >= end) {
        buckets_.emplace_back();
        lowest_begins.push_back(0);
        left = capacity_elements;
        used = 0;
        continue;
      }
      const int b = bucket_count() - 1;
      if (parameter.last_bucket < 0) parameter.first_bucket = b;
      parameter.last_bucket = b;
      lowest_begins[b] = begin;
      used += padded_end - begin;
      left -= padded_end - begin;
      buckets_[b].parameters.push_back(p);
      buckets_[b].shard_elements = RoundUp(used, unit) / world_size_;
      end = begin;
    }
  }
  PlaceBuckets(lowest_begins);
}

void ShardLayout::PlaceBuckets(const std::vector<int64_t>& lowest_begins) {
  for (Bucket& bucket : buckets_) {
    bucket.state_begin_element = state_elements_;
    state_elements_ += bucket.shard_elements;
  }
  arena_elements_ = state_elements_ * world_size_;

  int64_t end = arena_elements_;
  for (int b = 0; b < bucket_count(); ++b) {
    Bucket& bucket = buckets_[b];
    bucket.begin_element = end - bucket.shard_elements * world_size_;
    for (const int p : bucket.parameters) {  // still from the highest to the lowest
      Parameter& parameter = parameters_[p];
      const bool goes_on_above = parameter.first_bucket < b;
      if (p == bucket.parameters.back()) {
        // What rounds the bucket up follows this piece, or there is none: a bucket whose only piece goes on above is
        // whole units long.
        parameter.arena_begin_element = bucket.begin_element - lowest_begins[b];
      } else if (!goes_on_above) {
        parameter.arena_begin_element = end - RoundUp(parameter.elements, kBlockElements);
      }
      end = parameter.arena_begin_element;
    }
    end = bucket.begin_element;
    std::reverse(bucket.parameters.begin(), bucket.parameters.end());
  }

  int64_t next_begin = arena_elements_;
  for (int p = parameter_count() - 1; p >= 0; --p) {
    if (parameters_[p].elements == 0) parameters_[p].arena_begin_element = next_begin;
    next_begin = parameters_[p].arena_begin_element;
  }
}

std::pair<int, int64_t> ShardLayout::Locate(int64_t global_element) const {
  // The last parameter that begins at or before the element: empty ones that begin there come before its owner.
  const auto next =
      std::upper_bound(parameters_.begin(), parameters_.end(), global_element,
                       [](int64_t element, const Parameter& p) { return element < p.global_begin_element; });
  const int p = static_cast<int>(next - parameters_.begin()) - 1;
  return {p, global_element - parameters_[p].global_begin_element};
}

int ShardLayout::FindParameter(absl::string_view name) const {
  const auto found = index_by_name_.find(std::string(name));
  return found == index_by_name_.end() ? -1 : found->second;
}

std::vector<Segment> ShardLayout::Segments(int b, int rank) const {
  const Bucket& bucket = buckets_[b];
  const int64_t shard_begin = bucket.begin_element + rank * bucket.shard_elements;
  const int64_t shard_end = shard_begin + bucket.shard_elements;
  std::vector<Segment> segments;
  const auto first = std::partition_point(bucket.parameters.begin(), bucket.parameters.end(), [&](int p) {
    return parameters_[p].arena_begin_element + parameters_[p].elements <= shard_begin;
  });
  for (auto it = first; it != bucket.parameters.end(); ++it) {
    const Parameter& parameter = parameters_[*it];
    const int64_t begin = std::max(parameter.arena_begin_element, shard_begin);
    const int64_t end = std::min(parameter.arena_begin_element + parameter.elements, shard_end);
    if (begin >= shard_end) break;
    segments.push_back({.parameter = *it,
                        .group = parameter.spec.group,
                        .begin_element = begin - parameter.arena_begin_element,
                        .elements = end - begin,
                        .shard_begin_element = begin - shard_begin});
  }
  return segments;
}

std::vector<OwnedRange> ShardLayout::Owners(int p, int64_t begin_element, int64_t end_element) const {
  const Parameter& parameter = parameters_[p];
  std::vector<OwnedRange> ranges;
  int b = parameter.last_bucket;  // the lowest in the arena
  for (int64_t element = begin_element; element < end_element;) {
    const int64_t position = parameter.arena_begin_element + element;
    while (position >= buckets_[b].begin_element + buckets_[b].shard_elements * world_size_) --b;
    const Bucket& bucket = buckets_[b];
    const int64_t rank = (position - bucket.begin_element) / bucket.shard_elements;
    const int64_t in_shard = (position - bucket.begin_element) % bucket.shard_elements;
    const int64_t elements = std::min(bucket.shard_elements - in_shard, end_element - element);
    ranges.push_back({.bucket = b,
                      .rank = static_cast<int>(rank),
                      .begin_element = element,
                      .elements = elements,
                      .state_begin_element = bucket.state_begin_element + in_shard});
    element += elements;
  }
  return ranges;
}

}  // namespace shardstep
