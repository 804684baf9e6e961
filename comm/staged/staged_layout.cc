#include "shardstep/comm/staged/staged_layout.h"

#include <algorithm>

namespace shardstep {
namespace {

// Kernels load whole lines.
constexpr int64_t kAlignmentBytes = 256;

int64_t Aligned(int64_t bytes) { return (bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes; }

// `count` times `elements` of `element_bytes`, each time aligned.
absl::StatusOr<int64_t> CheckedBytes(int64_t elements, int64_t element_bytes, int64_t count, absl::string_view what) {
  int64_t bytes = 0;
  if (__builtin_mul_overflow(elements, element_bytes, &bytes) ||
      __builtin_add_overflow(bytes, kAlignmentBytes, &bytes) ||
      __builtin_mul_overflow(Aligned(bytes - kAlignmentBytes), count, &bytes)) {
    return absl::ResourceExhaustedError(absl::StrCat(what, ": more bytes than can be counted"));
  }
  return bytes;
}

std::byte* At(const void* data, int64_t offset_bytes) {
  return static_cast<std::byte*>(const_cast<void*>(data)) + offset_bytes;
}

}  // namespace

absl::StatusOr<int64_t> StagedLayout::LandingSlotBytes() const {
  int64_t largest_bytes = 0;
  for (const BucketExtent& extent : buckets) {
    const int64_t element_bytes = contributions > 0 ? SizeBytes(DType::kFp32) : SizeBytes(extent.gradient_dtype);
    SHARDSTEP_ASSIGN_OR_RETURN(const int64_t bytes,
                               CheckedBytes(extent.shard_elements, element_bytes,
                                            int64_t{world_size} * std::max(contributions, 1), "landing slots"));
    largest_bytes = std::max(largest_bytes, bytes);
  }
  return largest_bytes;
}

absl::StatusOr<int64_t> StagedLayout::StagingSlotBytes() const {
  int64_t largest_bytes = 0;
  for (const BucketExtent& extent : buckets) {
    int64_t elements = 0;
    if (__builtin_mul_overflow(extent.shard_elements, int64_t{world_size}, &elements)) {
      return absl::ResourceExhaustedError("staging slots: more bytes than can be counted");
    }
    SHARDSTEP_ASSIGN_OR_RETURN(const int64_t bytes,
                               CheckedBytes(elements, SizeBytes(DType::kFp32), contributions, "staging slots"));
    largest_bytes = std::max(largest_bytes, bytes);
  }
  return largest_bytes;
}

Slice StagedLayout::OwnGradients(int b) const {
  return {.data = gradients + bucket(b).gradient_begin_byte, .dtype = bucket(b).gradient_dtype, .rank = rank};
}

std::vector<Slice> StagedLayout::Slices(int b, absl::Span<const Slice> mine, int64_t slot) const {
  std::vector<Slice> slices;
  std::byte* end = landing + slot * landing_slot_bytes;
  for (int sender = 0; sender < world_size; ++sender) {
    for (Slice slice : mine) {
      slice.rank = sender;
      if (world_size > 1) slice.data = end;
      end += Aligned(bucket(b).shard_elements * SizeBytes(slice.dtype));
      slices.push_back(slice);
    }
  }
  return slices;
}

std::vector<Slice> StagedLayout::OnHost(int b, absl::Span<const Slice> mine, int64_t slot) const {
  std::vector<Slice> on_host(mine.begin(), mine.end());
  std::byte* end = staging + slot * staging_slot_bytes;
  for (Slice& slice : on_host) {
    slice.data = contributions > 0 ? end : host_gradients + bucket(b).gradient_begin_byte;
    end += Aligned(bucket(b).shard_elements * world_size * SizeBytes(slice.dtype));
  }
  return on_host;
}

std::vector<StagedCopy> StagedLayout::Leaving(int b, absl::Span<const Slice> mine, absl::Span<const Slice> on_host,
                                              absl::Span<const Slice> slices) const {
  std::vector<StagedCopy> copies;
  for (size_t i = 0; i < mine.size(); ++i) {
    const int64_t shard_bytes = bucket(b).shard_elements * SizeBytes(mine[i].dtype);
    const int64_t before = rank * shard_bytes;
    const int64_t after = before + shard_bytes;
    const Slice& own = slices[static_cast<size_t>(rank) * mine.size() + i];
    copies.push_back({At(on_host[i].data, 0), mine[i].data, before});
    copies.push_back({At(on_host[i].data, after), At(mine[i].data, after), world_size * shard_bytes - after});
    copies.push_back({At(own.data, 0), At(mine[i].data, before), shard_bytes});
  }
  return copies;
}

std::vector<StagedCopy> StagedLayout::Arriving(int b, absl::Span<const Slice> arrived,
                                               absl::Span<const Slice> slices) const {
  std::vector<StagedCopy> copies;
  for (size_t i = 0; i < slices.size(); ++i) {
    if (slices[i].rank == rank) continue;
    copies.push_back({At(slices[i].data, 0), arrived[i].data, bucket(b).shard_elements * SizeBytes(slices[i].dtype)});
  }
  return copies;
}

std::vector<StagedCopy> StagedLayout::Publishing(int b) const {
  const int64_t own = WeightOffset(b, rank);
  return {{host_weights + own, weights + own, WeightShardBytes(b)}};
}

std::vector<StagedCopy> StagedLayout::Published(int b) const {
  const int64_t begin = WeightOffset(b, 0);
  const int64_t own = WeightOffset(b, rank);
  const int64_t after = own + WeightShardBytes(b);
  return {{weights + begin, host_weights + begin, own - begin},
          {weights + after, host_weights + after, WeightOffset(b, world_size) - after}};
}

}  // namespace shardstep
