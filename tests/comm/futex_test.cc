#include "shardstep/comm/shm/futex.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <new>
#include <thread>

#include "gtest/gtest.h"

namespace shardstep {
namespace {

constexpr int64_t kLongNs = 60'000'000'000;

TEST(FutexTest, ReturnsWhenTheWordDiffersAlready) {
  const std::atomic<uint32_t> word = 5;
  const int64_t start_ns = MonotonicNs();
  FutexWait(word, 4, kLongNs);
  EXPECT_LT(MonotonicNs() - start_ns, kLongNs / 2);
}

TEST(FutexTest, ReturnsAtTheTimeoutAndNotBefore) {
  const std::atomic<uint32_t> word = 5;
  const int64_t start_ns = MonotonicNs();
  while (MonotonicNs() - start_ns < 20'000'000) FutexWait(word, 5, 20'000'000);
  FutexWait(word, 5, 0);
  FutexWait(word, 5, -1);
}

TEST(FutexTest, NoWakeUpIsLostBetweenThreads) {
  constexpr uint32_t kRounds = 2000;
  std::atomic<uint32_t> ping = 0;
  std::atomic<uint32_t> pong = 0;
  std::thread peer([&] {
    for (uint32_t i = 0; i < kRounds; ++i) {
      while (ping.load() == i) FutexWait(ping, i, kLongNs);
      pong.store(i + 1);
      FutexWakeAll(pong);
    }
  });
  const int64_t start_ns = MonotonicNs();
  for (uint32_t i = 0; i < kRounds; ++i) {
    ping.store(i + 1);
    FutexWakeAll(ping);
    while (pong.load() == i) FutexWait(pong, i, kLongNs);
  }
  peer.join();
  EXPECT_LT(MonotonicNs() - start_ns, kLongNs) << "only a timeout ended a wait";
}

TEST(FutexTest, WakesAnotherProcess) {
  void* memory = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  auto* words = new (memory) std::atomic<uint32_t>[2] {};
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    words[1].store(1);
    FutexWakeAll(words[1]);
    const int64_t start_ns = MonotonicNs();
    while (words[0].load() == 0) FutexWait(words[0], 0, kLongNs);
    _exit(MonotonicNs() - start_ns < kLongNs ? 0 : 1);
  }
  while (words[1].load() == 0) FutexWait(words[1], 0, kLongNs);
  usleep(20'000);  // most likely the child sleeps by now; either way it must see the change
  words[0].store(1);
  FutexWakeAll(words[0]);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  munmap(memory, 4096);
}

}  // namespace
}  // namespace shardstep
