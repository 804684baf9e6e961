#include "shardstep/comm/mpi/data_plan.h"

#include <limits>
#include <map>
#include <tuple>

#include "gtest/gtest.h"

namespace shardstep {
namespace {

// Addresses that nothing reads.
std::byte* At(int64_t offset) {
  return reinterpret_cast<std::byte*>((uintptr_t{1} << 46) + static_cast<uint64_t>(offset));
}

DataPlan PlanOf(int rank, int world_size, std::vector<BucketExtent> buckets, int contributions = 0) {
  DataPlan plan;
  plan.rank = rank;
  plan.world_size = world_size;
  plan.longest_message_bytes = LongestMessageBytes(std::numeric_limits<int64_t>::max());
  plan.buckets = std::move(buckets);
  plan.contributions = contributions;
  plan.gradients = At(0);
  plan.weights = At(int64_t{1} << 44);
  plan.landing = At(int64_t{2} << 44);
  return plan;
}

// Lengths of the messages between two ranks, in order, by (from, to, tag).
using Traffic = std::map<std::tuple<int, int, int>, std::vector<int>>;

void Add(int rank, const std::vector<Message>& messages, Traffic* sent, Traffic* received) {
  for (const Message& message : messages) {
    if (message.direction == Message::kSend) {
      (*sent)[{rank, message.member, message.tag}].push_back(message.bytes);
    } else {
      (*received)[{message.member, rank, message.tag}].push_back(message.bytes);
    }
  }
}

TEST(DataPlanTest, SendersAndReceiversListTheSameMessagesInTheSameOrder) {
  const std::vector<BucketExtent> buckets = {{.shard_elements = 5000}, {.shard_elements = 0}};
  const Slice mine[] = {{.data = At(64), .dtype = DType::kFp32}, {.data = At(1 << 20), .dtype = DType::kBf16}};
  for (int world_size = 1; world_size <= 5; ++world_size) {
    Traffic sent;
    Traffic received;
    for (int rank = 0; rank < world_size; ++rank) {
      DataPlan plan = PlanOf(rank, world_size, buckets, 2);
      plan.longest_message_bytes = 4096;
      for (int bucket = 0; bucket < 2; ++bucket) {
        Add(rank, plan.PlanExchange(bucket, 3, mine, 0).messages, &sent, &received);
        Add(rank, plan.PlanPublish(bucket, 1), &sent, &received);
      }
    }
    EXPECT_EQ(sent, received) << world_size;
    EXPECT_EQ(sent.size(), static_cast<size_t>(2 * world_size * (world_size - 1)));
  }
}

TEST(DataPlanTest, SlicesAreInRankOrderAndOwnOnesStayWhereTheyAre) {
  const DataPlan plan = PlanOf(1, 3, {{.shard_elements = 100}}, 2);
  const Slice mine[] = {{.data = At(64), .dtype = DType::kFp32, .rank = 7, .ranks = 2, .partial = true},
                        {.data = At(1 << 20), .dtype = DType::kBf16, .rank = 9}};
  const DataPlan::Exchange exchange = plan.PlanExchange(0, 0, mine, 1 << 16);
  ASSERT_EQ(exchange.slices.size(), 6u);
  for (size_t i = 0; i < 6; ++i) {
    const Slice& slice = exchange.slices[i];
    EXPECT_EQ(slice.rank, static_cast<int>(i / 2));
    EXPECT_EQ(slice.dtype, mine[i % 2].dtype);
    EXPECT_EQ(slice.ranks, mine[i % 2].ranks);
    EXPECT_EQ(slice.partial, mine[i % 2].partial);
  }
  EXPECT_EQ(exchange.slices[2].data, At(64 + 400));
  EXPECT_EQ(exchange.slices[3].data, At((1 << 20) + 200));
  // The others land one after another, each at a multiple of 64.
  EXPECT_EQ(exchange.slices[0].data, plan.landing + (1 << 16));
  EXPECT_EQ(exchange.slices[1].data, plan.landing + (1 << 16) + 448);
  EXPECT_EQ(exchange.slices[4].data, plan.landing + (1 << 16) + 448 + 256);
  EXPECT_EQ(exchange.slices[5].data, plan.landing + (1 << 16) + 448 + 256 + 448);
}

TEST(DataPlanTest, ASlotHoldsTheLargestBucket) {
  const std::vector<BucketExtent> buckets = {{.shard_elements = 100},
                                             {.shard_elements = 60, .gradient_dtype = DType::kFp32}};
  EXPECT_EQ(*PlanOf(0, 3, buckets).SlotBytes(), 2 * 256);
  EXPECT_EQ(*PlanOf(0, 3, buckets, 2).SlotBytes(), 2 * 2 * 448);
  EXPECT_EQ(*PlanOf(0, 1, buckets).SlotBytes(), 0);
  const absl::StatusOr<int64_t> huge = PlanOf(0, 3, {{.shard_elements = int64_t{1} << 61}}, 4).SlotBytes();
  EXPECT_EQ(huge.status(), absl::ResourceExhaustedError("landing slots: bucket 0 is too large"));
}

// L3: a shard of more than 2^31 elements, messages of more than 2 GiB, offsets beyond.
TEST(DataPlanTest, HugeShardsAreCutAndFoundWithoutWrapping) {
  const int64_t elements = (int64_t{1} << 31) + 1024;
  const int64_t shard_bytes = elements * 4;
  const std::vector<BucketExtent> buckets = {
      {.shard_elements = elements, .gradient_dtype = DType::kFp32, .weight_dtype = DType::kFp32}};
  const DataPlan plan = PlanOf(1, 3, buckets);
  const Slice own = plan.OwnGradients(0);
  const DataPlan::Exchange exchange = plan.PlanExchange(0, 0, {&own, 1}, 0);
  EXPECT_EQ(exchange.slices[1].data, plan.gradients + shard_bytes);
  EXPECT_EQ(exchange.slices[2].data, plan.landing + shard_bytes);
  std::map<std::pair<Message::Direction, int>, int64_t> moved;
  std::map<std::pair<Message::Direction, int>, const std::byte*> begins = {
      {{Message::kSend, 0}, plan.gradients},
      {{Message::kSend, 2}, plan.gradients + 2 * shard_bytes},
      {{Message::kReceive, 0}, plan.landing},
      {{Message::kReceive, 2}, plan.landing + shard_bytes}};
  for (const Message& message : exchange.messages) {
    const std::pair key(message.direction, message.member);
    ASSERT_GT(message.bytes, 0);
    EXPECT_EQ(message.data, begins.at(key) + moved[key]);
    moved[key] += message.bytes;
  }
  ASSERT_EQ(moved.size(), 4u);
  for (const auto& [key, bytes] : moved) EXPECT_EQ(bytes, shard_bytes) << "member " << key.second;
  const std::vector<Message> publish = plan.PlanPublish(0, 0);
  EXPECT_EQ(publish.back().data + publish.back().bytes, plan.weights + 2 * shard_bytes);
}

}  // namespace
}  // namespace shardstep
