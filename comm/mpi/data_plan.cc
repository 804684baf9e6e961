#include "shardstep/comm/mpi/data_plan.h"

#include <algorithm>

namespace shardstep {
namespace {

constexpr int64_t kAlignmentBytes = 64;

int64_t Aligned(int64_t bytes) { return (bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes; }

// Messages only read what they send.
std::byte* Bytes(const void* data) { return static_cast<std::byte*>(const_cast<void*>(data)); }

}  // namespace

Transfer::Transfer(std::string operation, int members, absl::Span<const Message> messages)
    : name(std::move(operation)), receiving(static_cast<size_t>(members)), sending(static_cast<size_t>(members)) {
  for (const Message& message : messages) {
    ++(message.direction == Message::kSend ? sending : receiving)[static_cast<size_t>(message.member)];
  }
}

absl::StatusOr<int64_t> DataPlan::SlotBytes() const {
  int64_t largest_bytes = 0;
  for (size_t b = 0; b < buckets.size(); ++b) {
    const int64_t element_bytes = contributions > 0 ? SizeBytes(DType::kFp32) : SizeBytes(buckets[b].gradient_dtype);
    const int64_t slices = int64_t{world_size - 1} * std::max(contributions, 1);
    int64_t bytes = 0;
    if (__builtin_mul_overflow(buckets[b].shard_elements, element_bytes, &bytes) ||
        __builtin_add_overflow(bytes, kAlignmentBytes, &bytes) ||
        __builtin_mul_overflow(Aligned(bytes - kAlignmentBytes), slices, &bytes)) {
      return absl::ResourceExhaustedError(absl::StrCat("landing slots: bucket ", b, " is too large"));
    }
    largest_bytes = std::max(largest_bytes, bytes);
  }
  return largest_bytes;
}

Slice DataPlan::OwnGradients(int bucket) const {
  const BucketExtent& extent = buckets[static_cast<size_t>(bucket)];
  return {.data = gradients + extent.gradient_begin_byte, .dtype = extent.gradient_dtype, .rank = rank};
}

DataPlan::Exchange DataPlan::PlanExchange(int bucket, int64_t micro_step, absl::Span<const Slice> mine,
                                          int64_t slot_begin_byte) const {
  const int64_t elements = buckets[static_cast<size_t>(bucket)].shard_elements;
  const int tag = tags.exchange(bucket, micro_step);
  const auto shard_bytes = [elements](const Slice& slice) { return elements * SizeBytes(slice.dtype); };
  Exchange exchange;
  int64_t end_byte = slot_begin_byte;
  for (int member = 0; member < world_size; ++member) {
    for (const Slice& own : mine) {
      exchange.slices.push_back(own);
      Slice& slice = exchange.slices.back();
      slice.rank = member;
      if (member == rank) {
        slice.data = Bytes(own.data) + rank * shard_bytes(own);
      } else {
        slice.data = landing + end_byte;
        end_byte += Aligned(shard_bytes(own));
      }
    }
  }
  for (int distance = 1; distance < world_size; ++distance) {
    const int from = (rank + world_size - distance) % world_size;
    for (size_t i = 0; i < mine.size(); ++i) {
      const Slice& slice = exchange.slices[static_cast<size_t>(from) * mine.size() + i];
      AppendMessages({.direction = Message::kReceive, .member = from, .tag = tag}, Bytes(slice.data),
                     shard_bytes(slice), longest_message_bytes, &exchange.messages);
    }
  }
  for (int distance = 1; distance < world_size; ++distance) {
    const int to = (rank + distance) % world_size;
    for (const Slice& own : mine) {
      AppendMessages({.direction = Message::kSend, .member = to, .tag = tag}, Bytes(own.data) + to * shard_bytes(own),
                     shard_bytes(own), longest_message_bytes, &exchange.messages);
    }
  }
  return exchange;
}

std::vector<Message> DataPlan::PlanPublish(int bucket, int64_t step) const {
  const BucketExtent& extent = buckets[static_cast<size_t>(bucket)];
  const int64_t shard_bytes = extent.shard_elements * SizeBytes(extent.weight_dtype);
  const int tag = tags.publish(bucket, step);
  std::byte* const begin = weights + extent.weight_begin_byte;
  std::vector<Message> messages;
  for (int distance = 1; distance < world_size; ++distance) {
    const int from = (rank + world_size - distance) % world_size;
    AppendMessages({.direction = Message::kReceive, .member = from, .tag = tag}, begin + from * shard_bytes,
                   shard_bytes, longest_message_bytes, &messages);
  }
  for (int distance = 1; distance < world_size; ++distance) {
    const int to = (rank + distance) % world_size;
    AppendMessages({.direction = Message::kSend, .member = to, .tag = tag}, begin + rank * shard_bytes, shard_bytes,
                   longest_message_bytes, &messages);
  }
  return messages;
}

}  // namespace shardstep
