#include "shardstep/optimizer/worker_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>
#include <vector>

namespace shardstep {
namespace {

TEST(WorkerPoolTest, WorkIsDoneOnceAndFinishedWhenRunReturns) {
  for (const int workers : {0, 1, 3}) {
    const auto pool = *WorkerPool::Create(workers);
    for (int round = 0; round < 200; ++round) {
      std::vector<int> done(100, 0);
      std::atomic<int> next = 0;
      pool->Run([&] {
        for (int i; (i = next++) < 100;) ++done[i];
      });
      ASSERT_EQ(done, std::vector<int>(100, 1));
    }
  }
}

TEST(WorkerPoolTest, WorkersHelp) {
  const auto pool = *WorkerPool::Create(2);
  // Each thread stays until all three are here, so this returns only if both workers join.
  std::atomic<int> arrived = 0;
  pool->Run([&] {
    ++arrived;
    while (arrived < 3) std::this_thread::yield();
  });
  EXPECT_EQ(arrived, 3);
}

TEST(WorkerPoolTest, RunsThatOverlapDoNotWaitForEachOther) {
  const auto pool = *WorkerPool::Create(1);
  std::atomic<bool> first_is_in = false;
  std::atomic<bool> second_is_done = false;
  std::thread other([&] {
    while (!first_is_in) std::this_thread::yield();
    int calls = 0;
    pool->Run([&] { ++calls; });
    EXPECT_EQ(calls, 1) << "the workers belong to the first Run";
    second_is_done = true;
  });
  pool->Run([&] {
    first_is_in = true;
    while (!second_is_done) std::this_thread::yield();
  });
  other.join();
}

}  // namespace
}  // namespace shardstep
