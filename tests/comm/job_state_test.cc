#include "shardstep/comm/mpi/job_state.h"

#include <chrono>
#include <limits>
#include <thread>

#include "gtest/gtest.h"
#include "shardstep/comm/shm/futex.h"

namespace shardstep {
namespace {

constexpr absl::Duration kLong = absl::Minutes(1);
constexpr absl::Duration kShort = absl::Milliseconds(50);

void SleepMs(int milliseconds) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); }

absl::Status AwaitRanks(JobState& job, absl::Duration deadline, const std::vector<int>& absent,
                        absl::Duration grace = absl::ZeroDuration()) {
  return job.Await({.deadline = deadline,
                    .grace = grace,
                    .operation = [] { return std::string("Waiting"); },
                    .absent = [&] { return absent; }});
}

TEST(JobStateTest, AWaitForNobodyEndsAtOnce) {
  JobState job(0, 2);
  EXPECT_TRUE(AwaitRanks(job, kLong, {}).ok());
}

TEST(JobStateTest, AWaitEndsWhenTheLastHasArrived) {
  JobState job(0, 3);
  std::vector<int> absent = {1, 2};
  std::thread arrivals([&] {
    while (true) {
      SleepMs(5);
      const MutexLock lock(&job.mutex());
      absent.pop_back();
      job.Changed();
      if (absent.empty()) return;
    }
  });
  EXPECT_TRUE(AwaitRanks(job, kLong, absent).ok());
  arrivals.join();
  EXPECT_TRUE(absent.empty());
}

TEST(JobStateTest, TheDeadlineNamesOperationAndRanksWithoutTheGrace) {
  JobState job(0, 3);
  EXPECT_EQ(AwaitRanks(job, kShort, {1, 2}, absl::Milliseconds(20)),
            absl::DeadlineExceededError("Waiting: ranks 1, 2 did not arrive within 50ms"));
}

TEST(JobStateTest, TheGraceComesAfterTheDeadline) {
  JobState job(0, 2);
  const int64_t begin_ns = MonotonicNs();
  EXPECT_FALSE(AwaitRanks(job, kShort, {1}, absl::Milliseconds(150)).ok());
  EXPECT_GE(MonotonicNs() - begin_ns, 200'000'000);
}

TEST(JobStateTest, AFailureEndsWaitsAndIsTheFirst) {
  JobState job(0, 2);
  EXPECT_FALSE(job.failed());
  std::thread failing([&] {
    SleepMs(20);
    EXPECT_TRUE(job.Fail(absl::AbortedError("first")));
    EXPECT_FALSE(job.Fail(absl::AbortedError("second")));
  });
  EXPECT_EQ(AwaitRanks(job, kLong, {1}), absl::AbortedError("first"));
  failing.join();
  EXPECT_TRUE(job.failed());
  EXPECT_EQ(job.failure(), absl::AbortedError("first"));
  EXPECT_EQ(AwaitRanks(job, kLong, {}), absl::AbortedError("first")) << "also for what has arrived";
}

TEST(JobStateTest, SuccessIsNoFailure) {
  JobState job(0, 1);
  EXPECT_FALSE(job.Fail(absl::OkStatus()));
  EXPECT_FALSE(job.failed());
}

TEST(JobStateTest, NoDeadlineRunsWhileARankIsAway) {
  JobState job(0, 3);
  job.SetAway(2, absl::Milliseconds(150));
  const int64_t begin_ns = MonotonicNs();
  EXPECT_TRUE(absl::IsDeadlineExceeded(AwaitRanks(job, kShort, {1})));
  EXPECT_GE(MonotonicNs() - begin_ns, 200'000'000);
}

TEST(JobStateTest, AReturnStartsDeadlinesAnew) {
  JobState job(0, 2);
  job.SetAway(1, absl::Hours(10));
  std::thread returning([&] {
    SleepMs(50);
    job.SetAway(1, absl::ZeroDuration());
  });
  EXPECT_TRUE(absl::IsDeadlineExceeded(AwaitRanks(job, kShort, {1})));
  returning.join();
}

TEST(JobStateTest, AwayForeverDoesNotOverflow) {
  JobState job(0, 2);
  job.SetAway(1, absl::InfiniteDuration());
  const int64_t now_ns = MonotonicNs();
  EXPECT_EQ(job.LastAwayNs(now_ns), now_ns);
  EXPECT_GT(job.OthersAway(now_ns), absl::Hours(24));
}

TEST(JobStateTest, OthersAwayIsTheLongestButNotOneself) {
  JobState job(1, 3);
  EXPECT_EQ(job.OthersAway(MonotonicNs()), absl::ZeroDuration());
  job.SetAway(1, absl::Hours(9));
  EXPECT_EQ(job.OthersAway(MonotonicNs()), absl::ZeroDuration());
  job.SetAway(0, absl::Hours(1));
  job.SetAway(2, absl::Hours(3));
  EXPECT_GT(job.OthersAway(MonotonicNs()), absl::Hours(2));
  job.SetAway(2, absl::ZeroDuration());
  EXPECT_LE(job.OthersAway(MonotonicNs()), absl::Hours(1));
  EXPECT_GT(job.OthersAway(MonotonicNs()), absl::Minutes(50));
}

TEST(JobStateTest, WaitingThreadsAreCounted) {
  JobState job(0, 2);
  EXPECT_EQ(job.waiting(), 0);
  std::thread waiter([&] { EXPECT_FALSE(AwaitRanks(job, kLong, {1}).ok()); });
  while (job.waiting() == 0) SleepMs(1);
  job.Fail(absl::AbortedError("end"));
  waiter.join();
  EXPECT_EQ(job.waiting(), 0);
}

}  // namespace
}  // namespace shardstep
