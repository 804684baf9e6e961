#include "shardstep/comm/nccl/landing_layout.h"

#include <algorithm>

namespace shardstep {
namespace {

// Kernels load whole lines.
constexpr int64_t kAlignmentBytes = 256;

int64_t Aligned(int64_t bytes) { return (bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes; }

const std::byte* Shard(const Slice& all, int64_t elements, int rank) {
  return static_cast<const std::byte*>(all.data) + rank * elements * SizeBytes(all.dtype);
}

// What lands is the ring's; slices are read-only for everyone else.
void* Landing(const Slice& slice) { return const_cast<void*>(slice.data); }

}  // namespace

absl::StatusOr<int64_t> LandingLayout::SlotBytes() const {
  if (world_size == 1) return 0;
  const bool adds = exchange == NcclExchange::kReduceScatter;
  const int64_t slices = adds ? 1 : int64_t{world_size} * std::max(contributions, 1);
  int64_t largest_bytes = 0;
  for (size_t b = 0; b < buckets.size(); ++b) {
    const int64_t element_bytes = contributions > 0 ? SizeBytes(DType::kFp32) : SizeBytes(buckets[b].gradient_dtype);
    int64_t bytes = 0;
    if (__builtin_mul_overflow(buckets[b].shard_elements, element_bytes, &bytes) ||
        __builtin_add_overflow(bytes, kAlignmentBytes, &bytes) ||
        __builtin_mul_overflow(Aligned(bytes - kAlignmentBytes), slices, &bytes)) {
      return absl::ResourceExhaustedError(
          absl::StrCat("landing slots: bucket ", b, " has more bytes than can be counted"));
    }
    largest_bytes = std::max(largest_bytes, bytes);
  }
  return largest_bytes;
}

Slice LandingLayout::OwnGradients(int b) const {
  return {.data = gradients + bucket(b).gradient_begin_byte, .dtype = bucket(b).gradient_dtype, .rank = rank};
}

std::vector<Slice> LandingLayout::Slices(int b, absl::Span<const Slice> mine, int64_t slot) const {
  const int64_t elements = bucket(b).shard_elements;
  if (exchange == NcclExchange::kReduceScatter && world_size > 1) {
    return {{.data = Slot(slot), .dtype = mine[0].dtype, .rank = 0, .ranks = world_size, .partial = true}};
  }
  std::vector<Slice> slices;
  std::byte* end = Slot(slot);
  for (int sender = 0; sender < world_size; ++sender) {
    for (const Slice& own : mine) {
      Slice slice = own;
      slice.rank = sender;
      // ncclAlltoAll lays shards side by side, and the own one too, where nobody looks at it.
      const int64_t shard_bytes = elements * SizeBytes(own.dtype);
      slice.data = sender == rank ? Shard(own, elements, rank) : end;
      end += UsesAllToAll() ? shard_bytes : Aligned(shard_bytes);
      slices.push_back(slice);
    }
  }
  return slices;
}

void LandingLayout::Exchange(int b, absl::Span<const Slice> mine, absl::Span<const Slice> slices, int64_t slot,
                             NcclCalls& calls) const {
  const int64_t elements = bucket(b).shard_elements;
  if (exchange == NcclExchange::kReduceScatter) {
    calls.ReduceScatterSum(mine[0].data, Slot(slot), elements, mine[0].dtype);
    return;
  }
  if (UsesAllToAll()) {
    calls.AllToAll(mine[0].data, Slot(slot), elements, mine[0].dtype);
    return;
  }
  // Each rank begins with another peer. Between two ranks messages match in this order.
  for (int distance = 1; distance < world_size; ++distance) {
    const int to = (rank + distance) % world_size;
    const int from = (rank + world_size - distance) % world_size;
    for (size_t i = 0; i < mine.size(); ++i) {
      calls.Send(Shard(mine[i], elements, to), elements, mine[i].dtype, to);
      const Slice& slice = slices[static_cast<size_t>(from) * mine.size() + i];
      calls.Recv(Landing(slice), elements, slice.dtype, from);
    }
  }
}

void LandingLayout::Publish(int b, NcclCalls& calls) const {
  calls.AllGather(Weights(b) + rank * WeightShardBytes(b), Weights(b), bucket(b).shard_elements,
                  bucket(b).weight_dtype);
}

}  // namespace shardstep
