#include "shardstep/comm/host_stream.h"

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shardstep {
namespace {

template <typename StreamType>
class HostStreamTest : public testing::Test {};
using HostStreams = testing::Types<ThreadStream, InlineStream>;
TYPED_TEST_SUITE(HostStreamTest, HostStreams);

absl::Status Drain(Stream& stream) { return stream.Synchronize(stream.Record()); }

TYPED_TEST(HostStreamTest, ItemsRunInOrder) {
  std::vector<int> order;
  TypeParam stream;
  for (int i = 0; i < 1000; ++i) {
    stream.Enqueue("append", [&order, i] {
      order.push_back(i);
      return absl::OkStatus();
    });
  }
  EXPECT_TRUE(Drain(stream).ok());
  ASSERT_EQ(order.size(), 1000u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TYPED_TEST(HostStreamTest, TheFirstErrorStaysAndLaterItemsAreDestroyedUnrun) {
  TypeParam stream;
  const auto token = std::make_shared<int>(0);
  std::atomic<int> ran = 0;
  std::promise<void> queued;
  if constexpr (std::is_same_v<TypeParam, InlineStream>) queued.set_value();  // or the item would wait for us
  stream.Enqueue("exchange", [&] {
    queued.get_future().wait();
    return absl::DataLossError("rank 2 is wrong");
  });
  for (int i = 0; i < 10; ++i) {
    stream.Enqueue("later", [token, &ran] {
      ++ran;
      return absl::InternalError("a later error");
    });
  }
  const Event event = stream.Record();
  if constexpr (std::is_same_v<TypeParam, ThreadStream>) queued.set_value();
  const absl::Status expected = absl::DataLossError("exchange: rank 2 is wrong");
  EXPECT_EQ(stream.Synchronize(event), expected);
  EXPECT_EQ(token.use_count(), 1) << "closures of dropped items live on";
  stream.Enqueue("after", [token, &ran] {
    ++ran;
    return absl::OkStatus();
  });
  EXPECT_EQ(Drain(stream), expected);
  EXPECT_EQ(stream.status(), expected);
  EXPECT_EQ(token.use_count(), 1);
  EXPECT_EQ(ran, 0);
}

TYPED_TEST(HostStreamTest, AnItemWithoutNameAddsNothingToItsError) {
  TypeParam stream;
  stream.Enqueue("", [] { return absl::AbortedError("rank 1 aborted"); });
  EXPECT_EQ(Drain(stream), absl::AbortedError("rank 1 aborted"));
}

TYPED_TEST(HostStreamTest, AnItemThatFindsNoMemoryFails) {
  TypeParam stream;
  stream.Enqueue("reduce", []() -> absl::Status { throw std::bad_alloc(); });
  EXPECT_EQ(Drain(stream), absl::ResourceExhaustedError("reduce: out of memory"));
}

TYPED_TEST(HostStreamTest, AnErrorKeepsItsCause) {
  TypeParam stream;
  stream.Enqueue("exchange", [] { return AbortedBy(1, absl::StatusCode::kResourceExhausted, "failed: disk full"); });
  EXPECT_EQ(Drain(stream).message(), "exchange: rank 1 failed: disk full");
  EXPECT_EQ(CauseOf(Drain(stream)), absl::StatusCode::kResourceExhausted);
}

TYPED_TEST(HostStreamTest, WaitOrdersAfterAnotherStreamsEventAndTakesOverItsError) {
  ThreadStream producer;
  TypeParam consumer;
  int value = 0;  // unsynchronized on purpose: ThreadSanitizer judges the order
  for (int i = 1; i <= 100; ++i) {
    producer.Enqueue("produce", [&value] {
      ++value;
      return absl::OkStatus();
    });
    consumer.Wait(producer.Record());
    consumer.Enqueue("consume",
                     [&value, i] { return value == i ? absl::OkStatus() : absl::InternalError("too early"); });
    producer.Wait(consumer.Record());
  }
  EXPECT_TRUE(Drain(consumer).ok()) << consumer.status();
  producer.Enqueue("produce", [] { return absl::InternalError("broken"); });
  consumer.Wait(producer.Record());
  bool ran = false;
  consumer.Enqueue("consume", [&ran] {
    ran = true;
    return absl::OkStatus();
  });
  EXPECT_EQ(Drain(consumer), absl::InternalError("produce: broken"));
  EXPECT_FALSE(ran);
}

TYPED_TEST(HostStreamTest, DefaultEventsAndOwnEventsAreNoObstacle) {
  TypeParam stream;
  stream.Wait(Event{});
  stream.Wait(stream.Record());
  EXPECT_TRUE(stream.Synchronize(Event{}).ok());
  ThreadStream other;
  other.Enqueue("item", [] { return absl::OkStatus(); });
  EXPECT_EQ(stream.Synchronize(other.Record()).code(), absl::StatusCode::kInvalidArgument);
}

TEST(ThreadStreamTest, ABlockedThreadRunsQueuedItemsItself) {
  // Which thread gets an item is a matter of luck, so it is given many chances.
  ThreadStream stream;
  const std::thread::id self = std::this_thread::get_id();
  std::atomic<int> here = 0;
  for (int round = 0; round < 2000 && here == 0; ++round) {
    for (int i = 0; i < 8; ++i) {
      stream.Enqueue("item", [&here, self] {
        if (std::this_thread::get_id() == self) ++here;
        return absl::OkStatus();
      });
    }
    ASSERT_TRUE(Drain(stream).ok());
  }
  EXPECT_GT(here, 0);
}

TEST(ThreadStreamTest, SynchronizeRunsNothingBehindItsEvent) {
  ThreadStream stream;
  std::promise<void> release;
  stream.Enqueue("first", [] { return absl::OkStatus(); });
  const Event first = stream.Record();
  stream.Enqueue("blocked", [&release] {
    release.get_future().wait();
    return absl::OkStatus();
  });
  EXPECT_TRUE(stream.Synchronize(first).ok());  // would hang if it ran "blocked"
  release.set_value();
  EXPECT_TRUE(Drain(stream).ok());
}

TEST(ThreadStreamTest, WhatIsQueuedWhileABlockedThreadRunsAnItemIsNotForgotten) {
  for (int round = 0; round < 100; ++round) {
    ThreadStream stream;
    std::promise<void> started;
    std::promise<void> release;
    std::promise<void> second_ran;
    std::thread blocked([&] {
      stream.Enqueue("first", [&] {
        started.set_value();
        release.get_future().wait();
        return absl::OkStatus();
      });
      EXPECT_TRUE(stream.Synchronize(stream.Record()).ok());
    });
    started.get_future().wait();
    // `blocked` has recorded its event by now only if it runs the item; otherwise it waits for both, which is fine.
    stream.Enqueue("second", [&] {
      second_ran.set_value();
      return absl::OkStatus();
    });
    release.set_value();
    const auto outcome = second_ran.get_future().wait_for(std::chrono::seconds(20));
    blocked.join();
    ASSERT_EQ(outcome, std::future_status::ready) << "round " << round;
  }
}

TEST(ThreadStreamTest, ManyThreadsSynchronizeAtOnce) {
  for (int round = 0; round < 20; ++round) {
    ThreadStream stream;
    int64_t sum = 0;  // unsynchronized on purpose
    std::vector<Event> events;
    for (int i = 1; i <= 200; ++i) {
      stream.Enqueue("add", [&sum, i] {
        sum += i;
        return absl::OkStatus();
      });
      events.push_back(stream.Record());
    }
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (size_t e = static_cast<size_t>(t); e < events.size(); e += 4)
          EXPECT_TRUE(stream.Synchronize(events[e]).ok());
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_TRUE(Drain(stream).ok());
    EXPECT_EQ(sum, 200 * 201 / 2);
  }
}

TEST(ThreadStreamTest, TheDestructorFinishesWhatIsQueued) {
  std::atomic<int> ran = 0;
  for (int round = 0; round < 50; ++round) {
    ThreadStream stream;
    for (int i = 0; i < 20; ++i) {
      stream.Enqueue("count", [&ran] {
        ++ran;
        return absl::OkStatus();
      });
    }
  }
  EXPECT_EQ(ran, 50 * 20);
}

}  // namespace
}  // namespace shardstep
