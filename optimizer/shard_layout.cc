#include "shardstep/optimizer/shard_layout.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shardstep {
namespace {

constexpr int64_t kMaxElements = int64_t{1} << 40;
// Far above what one kind can need: 2^40 elements, at most a block of padding for each of 2^31 parameters, and less
// than a unit (at most 2^41) for each bucket, of which any two in a row hold more than a unit. That is below 2^44
// elements, so a sum that is checked after every kind does not wrap.
constexpr int64_t kMaxArenaBytes = int64_t{1} << 50;

// A multiple of `unit` >= value.
int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

template <typename... Args>
absl::Status Refuse(const ParameterSpec& spec, const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat("parameter \"", spec.name, "\": ", args...));
}

absl::Status CheckSpec(const ParameterSpec& spec, size_t groups) {
  if (spec.group < 0 || static_cast<size_t>(spec.group) >= groups) {
    return Refuse(spec, "group ", spec.group, " is not one of the ", groups, " groups of the options");
  }
  if (spec.weight_dtype == DType::kFp16) return Refuse(spec, "weight_dtype is fp16; bf16 and fp32 are supported");
  if (spec.gradient_dtype == DType::kFp16) return Refuse(spec, "gradient_dtype is fp16; bf16 and fp32 are supported");
  if (!std::isfinite(spec.norm_weight) || spec.norm_weight < 0) {
    return Refuse(spec, "norm_weight = ", spec.norm_weight, " is negative or not finite");
  }
  return absl::OkStatus();
}

// OK when a parameter may share the weights and the gradient of `owner`.
absl::Status CheckTie(const ParameterSpec& spec, const ParameterSpec& owner) {
  for (const auto& [same, field] :
       {std::pair(spec.shape == owner.shape, "shape"), std::pair(spec.group == owner.group, "group"),
        std::pair(spec.weight_dtype == owner.weight_dtype, "weight_dtype"),
        std::pair(spec.gradient_dtype == owner.gradient_dtype, "gradient_dtype"),
        std::pair(spec.frozen == owner.frozen, "frozen"),
        std::pair(spec.norm_weight == owner.norm_weight, "norm_weight")}) {
    if (!same) return Refuse(spec, "is tied to \"", owner.name, "\" and differs from it in ", field);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<int64_t> ElementCount(const ParameterSpec& parameter) {
  int64_t count = 1;
  for (size_t i = 0; i < parameter.shape.size(); ++i) {
    const int64_t extent = parameter.shape[i];
    if (extent < 0) return Refuse(parameter, "shape[", i, "] = ", extent, " is negative");
    if (extent == 0) count = 0;
  }
  if (count == 0) return 0;
  for (const int64_t extent : parameter.shape) {
    if (count > kMaxElements / extent) return Refuse(parameter, "more than 2^40 elements");
    count *= extent;
  }
  return count;
}

absl::StatusOr<ShardLayout> ShardLayout::Create(std::vector<ParameterSpec> parameters, const LayoutOptions& options) {
  if (options.bucket_bytes < 1) {
    return absl::InvalidArgumentError(absl::StrCat("bucket_bytes = ", options.bucket_bytes, " is not positive"));
  }
  ShardLayout layout;
  SHARDSTEP_RETURN_IF_ERROR(layout.SetRanks(options));
  for (ParameterSpec& spec : parameters) SHARDSTEP_RETURN_IF_ERROR(layout.AddParameter(std::move(spec), options));

  const int64_t unit = kBlockElements * layout.world_size_;
  for (const Kind& kind : layout.Kinds(options)) {
    const int first_bucket = layout.bucket_count();
    const int64_t units = options.bucket_bytes / SizeBytes(kind.kind.gradient_dtype) / unit;
    layout.CutBuckets(kind, std::max(units, int64_t{1}) * unit);
    layout.PlaceBytes(kind, first_bucket, layout.PlaceElements(kind, first_bucket));
    if (std::max(layout.gradient_arena_bytes_, layout.weight_arena_bytes_) > kMaxArenaBytes) {
      return Refuse(layout.parameter(kind.parameters[0]), "with the padding of its kind, more than 2^50 bytes");
    }
  }
  layout.NumberBuckets();
  layout.CopyPlacesOfOwners();
  return layout;
}

absl::Status ShardLayout::SetRanks(const LayoutOptions& options) {
  world_size_ = options.world_size;
  if (world_size_ < 1) {
    return absl::InvalidArgumentError(absl::StrCat("world_size = ", world_size_, " is not positive"));
  }
  ranks_by_position_ = options.ranks_by_position;
  if (ranks_by_position_.empty()) return absl::OkStatus();
  if (ranks_by_position_.size() != static_cast<size_t>(world_size_)) {
    return absl::InvalidArgumentError(
        absl::StrCat("ranks_by_position has ", ranks_by_position_.size(), " ranks of ", world_size_));
  }
  position_of_rank_.assign(world_size_, -1);
  for (int position = 0; position < world_size_; ++position) {
    const int rank = ranks_by_position_[position];
    if (rank < 0 || rank >= world_size_ || position_of_rank_[rank] >= 0) {
      return absl::InvalidArgumentError(absl::StrCat("ranks_by_position[", position, "] = ", rank,
                                                     " is out of range or there twice; world_size = ", world_size_));
    }
    position_of_rank_[rank] = position;
  }
  return absl::OkStatus();
}

absl::Status ShardLayout::AddParameter(ParameterSpec spec, const LayoutOptions& options) {
  if (spec.name.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("parameter ", parameters_.size(), " has no name"));
  }
  SHARDSTEP_RETURN_IF_ERROR(CheckSpec(spec, options.groups.size()));
  SHARDSTEP_ASSIGN_OR_RETURN(const int64_t elements, ElementCount(spec));
  if (FindParameter(spec.name) >= 0) {
    return Refuse(spec, "is registered twice; a second use of the same weights has a name of its own and tied_to");
  }
  Parameter parameter = {.spec = std::move(spec),
                         .owner = parameter_count(),
                         .elements = elements,
                         .global_begin_element = total_elements_};
  SHARDSTEP_RETURN_IF_ERROR(Tie(&parameter));
  if (parameter.owner == parameter_count()) {
    if (elements > kMaxElements - total_elements_) {
      return Refuse(parameter.spec, "with it, all parameters have more than 2^40 elements");
    }
    total_elements_ += elements;
  }
  index_by_name_.emplace(parameter.spec.name, parameter_count());
  parameters_.push_back(std::move(parameter));
  return absl::OkStatus();
}

absl::Status ShardLayout::Tie(Parameter* parameter) const {
  const ParameterSpec& spec = parameter->spec;
  if (spec.tied_to.empty()) return absl::OkStatus();
  if (spec.tied_to == spec.name) return Refuse(spec, "is tied to itself");
  const int other = FindParameter(spec.tied_to);
  if (other < 0) return Refuse(spec, "tied_to \"", spec.tied_to, "\" names no earlier parameter");
  parameter->owner = parameters_[other].owner;
  return CheckTie(spec, parameters_[other].spec);
}

std::vector<ShardLayout::Kind> ShardLayout::Kinds(const LayoutOptions& options) const {
  std::vector<Kind> kinds;
  std::map<std::tuple<int, DType, DType, bool>, size_t> known;  // a group has one UpdateKind
  for (int p = 0; p < parameter_count(); ++p) {
    if (owner(p) != p) continue;
    const ParameterSpec& spec = parameter(p);
    const auto [place, is_new] =
        known.emplace(std::tuple(spec.group, spec.weight_dtype, spec.gradient_dtype, spec.frozen), kinds.size());
    if (is_new) {
      kinds.push_back({.kind = {.group = spec.group,
                                .update = options.groups[spec.group],
                                .weight_dtype = spec.weight_dtype,
                                .gradient_dtype = spec.gradient_dtype,
                                .frozen = spec.frozen}});
    }
    kinds[place->second].parameters.push_back(p);
  }
  return kinds;
}

void ShardLayout::CutBuckets(const Kind& kind, int64_t capacity_elements) {
  const int64_t unit = kBlockElements * world_size_;
  int64_t left = 0;  // of the newest bucket
  int64_t used = 0;
  for (auto it = kind.parameters.rbegin(); it != kind.parameters.rend(); ++it) {
    Parameter& parameter = parameters_[*it];
    for (int64_t end = parameter.elements; end > 0;) {
      // All of [0, end) if it fits; else what is left after the smallest head that makes the rest fit.
      const int64_t padded_end = RoundUp(end, kBlockElements);
      const int64_t begin = padded_end <= left ? 0 : RoundUp(padded_end - left, unit);
      if (begin >= end) {
        buckets_.push_back({.kind = kind.kind});
        left = capacity_elements;
        used = 0;
        continue;
      }
      used += padded_end - begin;
      left -= padded_end - begin;
      Bucket& bucket = buckets_.back();
      bucket.lowest_element = parameter.global_begin_element + begin;
      bucket.parameters.push_back(*it);
      bucket.shard_elements = RoundUp(used, unit) / world_size_;
      parameter.buckets.push_back(bucket_count() - 1);
      end = begin;
    }
  }
}

int64_t ShardLayout::PlaceElements(const Kind& kind, int first_bucket) {
  int64_t kind_elements = 0;
  for (int b = first_bucket; b < bucket_count(); ++b) kind_elements += buckets_[b].shard_elements * world_size_;

  int64_t end = kind_elements;
  for (int b = first_bucket; b < bucket_count(); ++b) {
    Bucket& bucket = buckets_[b];
    bucket.begin_element = end - bucket.shard_elements * world_size_;
    for (const int p : bucket.parameters) {  // still from the highest to the lowest
      Parameter& parameter = parameters_[p];
      const bool goes_on_above = parameter.buckets.front() < b;
      if (p == bucket.parameters.back()) {
        // What rounds the bucket up follows this piece, or there is none: a bucket whose only piece goes on above is
        // whole units long.
        parameter.begin_element = bucket.begin_element - (bucket.lowest_element - parameter.global_begin_element);
      } else if (!goes_on_above) {
        parameter.begin_element = end - RoundUp(parameter.elements, kBlockElements);
      }
      end = parameter.begin_element;
    }
    end = bucket.begin_element;
    std::reverse(bucket.parameters.begin(), bucket.parameters.end());
  }

  int64_t next_begin = kind_elements;
  for (auto it = kind.parameters.rbegin(); it != kind.parameters.rend(); ++it) {
    if (elements(*it) == 0) parameters_[*it].begin_element = next_begin;
    next_begin = parameters_[*it].begin_element;
  }
  return kind_elements;
}

void ShardLayout::PlaceBytes(const Kind& kind, int first_bucket, int64_t kind_elements) {
  const int64_t gradient_bytes = SizeBytes(kind.kind.gradient_dtype);
  const int64_t weight_bytes = SizeBytes(kind.kind.weight_dtype);
  const auto place = [&](auto* placed) {
    placed->gradient_begin_byte = gradient_arena_bytes_ + placed->begin_element * gradient_bytes;
    placed->weight_begin_byte = weight_arena_bytes_ + placed->begin_element * weight_bytes;
  };
  for (int b = first_bucket; b < bucket_count(); ++b) place(&buckets_[b]);
  for (const int p : kind.parameters) place(&parameters_[p]);
  gradient_arena_bytes_ += kind_elements * gradient_bytes;
  weight_arena_bytes_ += kind_elements * weight_bytes;
}

void ShardLayout::NumberBuckets() {
  std::vector<int> order(buckets_.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [this](int a, int b) { return buckets_[a].lowest_element > buckets_[b].lowest_element; });
  std::vector<Bucket> buckets;
  std::vector<int> number(buckets_.size());
  for (const int b : order) {
    number[b] = static_cast<int>(buckets.size());
    buckets.push_back(std::move(buckets_[b]));
  }
  buckets_ = std::move(buckets);
  // Stays ascending: a kind's buckets were made in this order too.
  for (Parameter& parameter : parameters_) {
    for (int& b : parameter.buckets) b = number[b];
  }
}

void ShardLayout::CopyPlacesOfOwners() {
  for (Parameter& parameter : parameters_) {
    const Parameter& owner = parameters_[parameter.owner];
    if (&parameter == &owner) continue;
    parameter.begin_element = owner.begin_element;
    parameter.gradient_begin_byte = owner.gradient_begin_byte;
    parameter.weight_begin_byte = owner.weight_begin_byte;
    parameter.buckets = owner.buckets;
  }
}

std::pair<int, int64_t> ShardLayout::Locate(int64_t global_element) const {
  // The last parameter that begins at or before the element: empty and tied ones that begin there come before it.
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
  const int64_t shard_begin = bucket.begin_element + position(rank) * bucket.shard_elements;
  const int64_t shard_end = shard_begin + bucket.shard_elements;
  std::vector<Segment> segments;
  const auto first = std::partition_point(bucket.parameters.begin(), bucket.parameters.end(), [&](int p) {
    return parameters_[p].begin_element + parameters_[p].elements <= shard_begin;
  });
  for (auto it = first; it != bucket.parameters.end(); ++it) {
    const Parameter& parameter = parameters_[*it];
    const int64_t begin = std::max(parameter.begin_element, shard_begin);
    const int64_t end = std::min(parameter.begin_element + parameter.elements, shard_end);
    if (begin >= shard_end) break;
    const int64_t begin_element = begin - parameter.begin_element;
    segments.push_back({.parameter = *it,
                        .scalars = parameter.spec.group,
                        .norm_weight = parameter.spec.norm_weight,
                        .global_begin_element = parameter.global_begin_element + begin_element,
                        .begin_element = begin_element,
                        .elements = end - begin,
                        .shard_begin_element = begin - shard_begin});
  }
  return segments;
}

std::vector<OwnedRange> ShardLayout::Owners(int p, int64_t begin_element, int64_t end_element) const {
  const Parameter& parameter = parameters_[p];
  std::vector<OwnedRange> ranges;
  auto b = parameter.buckets.rbegin();  // the lowest in the arenas
  for (int64_t element = begin_element; element < end_element;) {
    const int64_t place = parameter.begin_element + element;
    while (place >= buckets_[*b].begin_element + buckets_[*b].shard_elements * world_size_) ++b;
    const Bucket& bucket = buckets_[*b];
    const auto shard = static_cast<int>((place - bucket.begin_element) / bucket.shard_elements);
    const int64_t in_shard = (place - bucket.begin_element) % bucket.shard_elements;
    const int64_t elements = std::min(bucket.shard_elements - in_shard, end_element - element);
    ranges.push_back({.bucket = *b,
                      .rank = ranks_by_position_.empty() ? shard : ranks_by_position_[shard],
                      .begin_element = element,
                      .elements = elements,
                      .shard_begin_element = in_shard});
    element += elements;
  }
  return ranges;
}

}  // namespace shardstep
