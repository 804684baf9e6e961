#include "shardstep/comm/shm/control.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shardstep {
namespace {

constexpr int kRanks = 3;

class ControlTest : public testing::Test {
 protected:
  Buffer buckets_memory_ = *Buffer::Allocate(BucketControl::SizeBytes(2, kRanks), "bucket counters");
  Buffer job_memory_ = *Buffer::Allocate(JobControl::SizeBytes(kRanks), "job control");
  BucketControl buckets_{buckets_memory_.view(), 2, kRanks};
  JobControl job_{job_memory_.view(), kRanks};
};

// Without wake-ups waits still end, a second late: so the word itself is looked at, not the clock.
TEST_F(ControlTest, WakesOnceWhenTheLastRankArrivesAndOnlyIfSomebodySleeps) {
  const CounterRow row = buckets_.row(BucketControl::kExchanged, 1);
  const auto sequence = [&row] { return row.word->sequence.load(); };
  for (int rank = 0; rank < kRanks; ++rank) row.Advance(rank, 1);
  EXPECT_EQ(sequence(), 0u) << "nobody sleeps";
  row.word->waiters.store(1);
  row.Advance(2, 2);
  row.Advance(0, 2);
  EXPECT_EQ(sequence(), 0u) << "rank 1 is missing";
  row.Advance(1, 2);
  EXPECT_EQ(sequence(), 1u);
  row.Advance(0, 3);
  row.Advance(1, 3);
  row.Advance(2, 7);  // passes 3, which the others have reached
  EXPECT_EQ(sequence(), 2u);
  EXPECT_EQ(buckets_.row(BucketControl::kExchanged, 0).word->sequence.load(), 0u);
}

TEST_F(ControlTest, RowsOfAllKindsAndBucketsAreApart) {
  int64_t value = 0;
  for (const auto kind : {BucketControl::kExchanged, BucketControl::kReleased, BucketControl::kPublished}) {
    for (int bucket = 0; bucket < 2; ++bucket) {
      for (int rank = 0; rank < kRanks; ++rank) buckets_.row(kind, bucket).Advance(rank, ++value);
    }
  }
  value = 0;
  for (const auto kind : {BucketControl::kExchanged, BucketControl::kReleased, BucketControl::kPublished}) {
    for (int bucket = 0; bucket < 2; ++bucket) {
      for (int rank = 0; rank < kRanks; ++rank) EXPECT_EQ(buckets_.row(kind, bucket).value(rank), ++value);
    }
  }
  buckets_.WakeAll();
  EXPECT_EQ(buckets_.row(BucketControl::kPublished, 1).word->sequence.load(), 1u);
  EXPECT_EQ(buckets_.row(BucketControl::kExchanged, 0).word->sequence.load(), 1u);
}

TEST_F(ControlTest, AbsentRanksAreThoseBehindTheValue) {
  const CounterRow row = buckets_.row(BucketControl::kReleased, 0);
  row.Advance(1, 5);
  EXPECT_THAT(row.Absent(5), testing::ElementsAre(0, 2));
  row.Advance(0, 6);
  row.Advance(2, 4);
  EXPECT_THAT(row.Absent(5), testing::ElementsAre(2));
  EXPECT_FALSE(row.AllReached(5));
  EXPECT_TRUE(row.AllReached(4));
}

TEST_F(ControlTest, AnAbortPassesOnTheFirstCauseOfItsReason) {
  job_.Abort(1, AbortedBy(2, absl::StatusCode::kDataLoss, "failed: chunk 3: bad"));
  job_.Abort(0, absl::InternalError("late"));
  EXPECT_EQ(job_.AbortStatus(), AbortedBy(1, absl::StatusCode::kDataLoss, "aborted: rank 2 failed: chunk 3: bad"));
}

TEST_F(ControlTest, MessagesCallRanksByTheirNames) {
  const JobControl named(job_memory_.view(), kRanks, {4, 8, 6});
  const CounterRow row = buckets_.row(BucketControl::kExchanged, 0);
  row.Advance(0, 1);
  EXPECT_EQ(AwaitCounters(named, row, 1, absl::Milliseconds(10), [] { return "it"; }).message(),
            "it: ranks 8, 6 did not arrive within 10ms");
  named.Abort(2, absl::InternalError("enough"));
  EXPECT_EQ(job_.AbortStatus().message(), "rank 6 aborted: enough");
}

TEST_F(ControlTest, AwayLastsUntilItsBoundOrTheReturn) {
  constexpr int64_t kSecond = 1'000'000'000;
  EXPECT_EQ(job_.LastAwayNs(kSecond), 0);
  job_.SetAway(1, absl::InfiniteDuration());
  EXPECT_EQ(job_.LastAwayNs(kSecond), kSecond);
  constexpr int64_t kFarFuture = int64_t{1} << 62;
  EXPECT_EQ(job_.LastAwayNs(kFarFuture), kFarFuture);
  job_.SetAway(1, absl::ZeroDuration());
  const int64_t returned_ns = job_.LastAwayNs(kFarFuture);
  EXPECT_LT(returned_ns, kFarFuture);
  EXPECT_GT(returned_ns, 0);
  job_.SetAway(1, absl::ZeroDuration());
  EXPECT_EQ(job_.LastAwayNs(kFarFuture), returned_ns) << "a second return is none";
}

}  // namespace
}  // namespace shardstep
