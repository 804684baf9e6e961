#include "shardstep/comm/nccl/heartbeat.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shardstep {
namespace {

constexpr absl::Duration kDeadline = absl::Seconds(60);

Heartbeat Arrived(int64_t operations) { return {.arrived = operations, .finished = operations}; }

TEST(HeartbeatTest, ComesAsItWasSent) {
  Heartbeat sent{.arrived = 7, .finished = 5, .expired = 5, .expired_name = "AllReduceSmall number 5"};
  sent.away = absl::Milliseconds(1500);
  sent.other_away = absl::Milliseconds(2500);
  sent.leaves = true;
  sent.failure = AbortedBy(3, absl::StatusCode::kDataLoss, "aborted: torn");
  const absl::StatusOr<Heartbeat> got = DecodeHeartbeat(Encode(sent));
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->arrived, 7);
  EXPECT_EQ(got->finished, 5);
  EXPECT_EQ(got->expired, 5);
  EXPECT_EQ(got->expired_name, "AllReduceSmall number 5");
  EXPECT_EQ(got->away, absl::Milliseconds(1500));
  EXPECT_EQ(got->other_away, absl::Milliseconds(2500));
  EXPECT_TRUE(got->leaves);
  EXPECT_FALSE(got->wants_rendezvous);
  EXPECT_EQ(got->failure, sent.failure);
  const absl::StatusOr<Heartbeat> idle = DecodeHeartbeat(Encode({.wants_rendezvous = true}));
  ASSERT_TRUE(idle.ok());
  EXPECT_TRUE(idle->failure.ok());
  EXPECT_TRUE(idle->wants_rendezvous);
  EXPECT_FALSE(idle->leaves);
}

TEST(HeartbeatTest, LongReasonsAreCut) {
  const Heartbeat sent{.failure = absl::InternalError(std::string(100'000, 'x'))};
  EXPECT_LT(Encode(sent).size(), 5000u);
  EXPECT_EQ(DecodeHeartbeat(Encode(sent))->failure.message(), std::string(4096, 'x'));
}

TEST(HeartbeatTest, WhatIsNoneIsRefused) {
  EXPECT_EQ(DecodeHeartbeat("").status().code(), absl::StatusCode::kInternal);
  const std::string whole = Encode({.expired_name = "a name"});
  EXPECT_EQ(DecodeHeartbeat(whole.substr(0, whole.size() - 1)).status().code(), absl::StatusCode::kInternal);
}

TEST(HeartbeatTest, ADeadlineNamesThoseWhoHaveNotCome) {
  std::vector<Heartbeat> states = {Arrived(4), Arrived(3), Arrived(4), Arrived(2)};
  states[0].expired = 3;
  states[0].expired_name = "AwaitSlices of bucket 1, micro-step 0";
  EXPECT_EQ(Judge(states, kDeadline, {}).failure,
            absl::DeadlineExceededError("AwaitSlices of bucket 1, micro-step 0: ranks 1, 3 did not arrive within 1m"));
  EXPECT_EQ(Judge(states, kDeadline, {5, 6, 7, 8}).failure,
            absl::DeadlineExceededError("AwaitSlices of bucket 1, micro-step 0: ranks 6, 8 did not arrive within 1m"));
}

TEST(HeartbeatTest, AnOperationThatAllHaveComeToIsLateByItself) {
  std::vector<Heartbeat> states = {Arrived(4), Arrived(4)};
  states[1].expired = 3;
  states[1].expired_name = "AllReduceSmall number 9";
  EXPECT_EQ(
      Judge(states, kDeadline, {}).failure,
      absl::DeadlineExceededError("AllReduceSmall number 9: all ranks have come, but it did not finish within 1m"));
}

TEST(HeartbeatTest, TheFirstOperationAndTheLowestFailureWin) {
  std::vector<Heartbeat> states = {Arrived(9), Arrived(9), Arrived(0)};
  states[0].expired = 6;
  states[0].expired_name = "later";
  states[1].expired = 5;
  states[1].expired_name = "earlier";
  EXPECT_THAT(std::string(Judge(states, kDeadline, {}).failure.message()), testing::StartsWith("earlier: rank 2"));
  states[2].failure = absl::DataLossError("rank 2's");
  states[1].failure = absl::InternalError("rank 1's");
  EXPECT_EQ(Judge(states, kDeadline, {}).failure, absl::InternalError("rank 1's"));
}

TEST(HeartbeatTest, TheLongestAbsenceCountsAndAllHaveToWantTheRendezvous) {
  std::vector<Heartbeat> states(3);
  states[0].away = absl::Seconds(2);
  states[2].away = absl::Seconds(5);
  states[0].other_away = absl::Seconds(9);
  states[1].other_away = absl::Seconds(3);
  states[0].wants_rendezvous = states[1].wants_rendezvous = true;
  Verdict verdict = Judge(states, kDeadline, {});
  EXPECT_TRUE(verdict.failure.ok());
  EXPECT_EQ(verdict.away, absl::Seconds(5));
  EXPECT_EQ(verdict.other_away, absl::Seconds(9));
  EXPECT_FALSE(verdict.all_want_rendezvous);
  EXPECT_EQ(verdict.departure.rank, -1);
  states[2].wants_rendezvous = true;
  EXPECT_TRUE(Judge(states, kDeadline, {}).all_want_rendezvous);
}

TEST(HeartbeatTest, OfThoseWhoLeaveTheOneThatHasFinishedLeastCounts) {
  std::vector<Heartbeat> states = {Arrived(9), Arrived(7), Arrived(8)};
  states[1].leaves = states[2].leaves = true;
  const Verdict verdict = Judge(states, kDeadline, {10, 11, 12});
  EXPECT_EQ(verdict.departure.rank, 11);
  EXPECT_EQ(verdict.departure.finished, 7);
}

}  // namespace
}  // namespace shardstep
