#include "shardstep/comm/shm/arena_extents.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

namespace shardstep {
namespace {

constexpr int64_t kAlignmentBytes = 64;

// One of the two arenas of a request, by its fields.
struct Arena {
  absl::string_view begin_field;
  int64_t BucketExtent::*begin_byte;
  absl::string_view dtype_field;
  DType BucketExtent::*dtype;
};
constexpr Arena kGradients{"gradient_begin_byte", &BucketExtent::gradient_begin_byte, "gradient_dtype",
                           &BucketExtent::gradient_dtype};
constexpr Arena kWeights{"weight_begin_byte", &BucketExtent::weight_begin_byte, "weight_dtype",
                         &BucketExtent::weight_dtype};

absl::Status FieldError(size_t bucket, absl::string_view field, int64_t value, absl::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat("bucket ", bucket, ": ", field, " = ", value, " ", problem));
}

absl::Status CheckExtent(const BucketExtent& extent, size_t bucket, const Arena& arena, int world_size) {
  // Every arena of every rank together must be countable in bytes.
  const int64_t limit_bytes = std::numeric_limits<int64_t>::max() / 4 / (world_size + 1);
  const int64_t begin = extent.*arena.begin_byte;
  if (begin < 0) return FieldError(bucket, arena.begin_field, begin, "is negative");
  if (begin % kAlignmentBytes != 0) return FieldError(bucket, arena.begin_field, begin, "is not a multiple of 64");
  if (begin > limit_bytes) return FieldError(bucket, arena.begin_field, begin, "is too large");
  if (extent.*arena.dtype != DType::kBf16 && extent.*arena.dtype != DType::kFp32) {
    return absl::InvalidArgumentError(absl::StrCat("bucket ", bucket, ": ", arena.dtype_field, " = ",
                                                   Name(extent.*arena.dtype), " is not supported"));
  }
  const int64_t elements = extent.shard_elements;
  if (elements < 0) return FieldError(bucket, "shard_elements", elements, "is negative");
  if (elements > (limit_bytes - begin) / world_size / SizeBytes(extent.*arena.dtype)) {
    return FieldError(bucket, "shard_elements", elements, "is too large");
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> ArenaBytes(absl::Span<const BucketExtent> buckets, const Arena& arena, int world_size) {
  for (size_t bucket = 0; bucket < buckets.size(); ++bucket) {
    SHARDSTEP_RETURN_IF_ERROR(CheckExtent(buckets[bucket], bucket, arena, world_size));
  }
  std::vector<size_t> order(buckets.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::make_pair(buckets[a].*arena.begin_byte, buckets[a].shard_elements) <
           std::make_pair(buckets[b].*arena.begin_byte, buckets[b].shard_elements);
  });
  int64_t end = 0;
  for (const size_t bucket : order) {
    const BucketExtent& extent = buckets[bucket];
    if (extent.*arena.begin_byte < end) {
      return FieldError(bucket, arena.begin_field, extent.*arena.begin_byte, "lies inside another bucket");
    }
    end = extent.*arena.begin_byte + extent.shard_elements * world_size * SizeBytes(extent.*arena.dtype);
  }
  return end;
}

constexpr std::array<absl::string_view, 4> kRequestFields = {"private_weights", "weights", "contributions", "buckets"};
constexpr std::array<absl::string_view, 5> kBucketFields = {"shard_elements", "gradient_dtype", "weight_dtype",
                                                            "gradient_begin_byte", "weight_begin_byte"};

// Comparable numbers: kRequestFields, then kBucketFields of each bucket.
std::vector<int64_t> Numbers(const ArenaRequest& request) {
  std::vector<int64_t> numbers = {request.private_weights ? 1 : 0, request.weights.data != nullptr ? 1 : 0,
                                  request.contributions, static_cast<int64_t>(request.buckets.size())};
  for (const BucketExtent& extent : request.buckets) {
    numbers.insert(numbers.end(),
                   {extent.shard_elements, static_cast<int64_t>(extent.gradient_dtype),
                    static_cast<int64_t>(extent.weight_dtype), extent.gradient_begin_byte, extent.weight_begin_byte});
  }
  return numbers;
}

std::vector<int64_t> Decode(const std::string& bytes) {
  std::vector<int64_t> numbers(bytes.size() / sizeof(int64_t));
  std::memcpy(numbers.data(), bytes.data(), numbers.size() * sizeof(int64_t));
  return numbers;
}

std::string ValueText(absl::string_view field, int64_t value) {
  const bool is_dtype = field == "gradient_dtype" || field == "weight_dtype";
  return is_dtype ? std::string(Name(static_cast<DType>(value))) : absl::StrCat(value);
}

// Of two different vectors of Numbers.
std::string DescribeDifference(const std::vector<int64_t>& a, int rank_a, const std::vector<int64_t>& b, int rank_b) {
  const auto at = static_cast<size_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
  std::string subject;
  absl::string_view field;
  if (at < kRequestFields.size()) {
    field = kRequestFields[at];
    subject = std::string(field);
  } else {
    const size_t place = at - kRequestFields.size();
    field = kBucketFields[place % kBucketFields.size()];
    subject = absl::StrCat("bucket ", place / kBucketFields.size());
  }
  return absl::StrCat("Allocate: ", subject, " differs: rank ", rank_a, " has ", field, " = ", ValueText(field, a[at]),
                      ", rank ", rank_b, " has ", ValueText(field, b[at]));
}

}  // namespace

absl::StatusOr<ArenaSizes> MeasureArenas(const ArenaRequest& request, int world_size) {
  if (request.contributions < 0) {
    return absl::InvalidArgumentError(absl::StrCat("contributions = ", request.contributions, " is negative"));
  }
  ArenaSizes sizes;
  if (request.contributions == 0) {
    SHARDSTEP_ASSIGN_OR_RETURN(sizes.gradient_bytes, ArenaBytes(request.buckets, kGradients, world_size));
  }
  SHARDSTEP_ASSIGN_OR_RETURN(sizes.weight_bytes, ArenaBytes(request.buckets, kWeights, world_size));
  if (request.weights.data != nullptr && request.weights.size_bytes < sizes.weight_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("weights: ", request.weights.size_bytes, " bytes, the buckets need ", sizes.weight_bytes));
  }
  return sizes;
}

absl::Status CompareRequests(Rendezvous& rendezvous, const ArenaRequest& request, absl::Span<const int> rank_names,
                             absl::Duration deadline) {
  const std::vector<int64_t> mine = Numbers(request);
  const absl::string_view bytes(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(int64_t));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                             rendezvous.AllGatherBytes("Allocate: request", bytes, deadline));
  absl::Status equal;
  for (size_t rank = 1; rank < all.size() && equal.ok(); ++rank) {
    if (all[rank] == all[0]) continue;
    const auto name = [&](size_t r) { return rank_names.empty() ? static_cast<int>(r) : rank_names[r]; };
    equal = absl::FailedPreconditionError(DescribeDifference(Decode(all[0]), name(0), Decode(all[rank]), name(rank)));
  }
  // All ranks that compared know the same; other groups of the same meeting have to hear of it.
  const absl::Status agreed = AgreeOnStatus(rendezvous, "Allocate: requests compared", equal, deadline);
  return equal.ok() ? agreed : equal;
}

}  // namespace shardstep
