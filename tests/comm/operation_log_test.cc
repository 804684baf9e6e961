#include "shardstep/comm/mpi/operation_log.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shardstep {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr int kSelf = 1;

std::shared_ptr<Transfer> TransferOf(std::vector<int> receiving, std::vector<int> sending) {
  auto transfer = std::make_shared<Transfer>("", static_cast<int>(receiving.size()), absl::Span<const Message>());
  transfer->receiving = std::move(receiving);
  transfer->sending = std::move(sending);
  return transfer;
}

TEST(OperationLogTest, TransfersCountMessagesByMemberAndDirection) {
  const Message messages[] = {{.direction = Message::kSend, .member = 2},
                              {.direction = Message::kSend, .member = 2},
                              {.direction = Message::kReceive, .member = 0}};
  const Transfer transfer("", 3, messages);
  EXPECT_THAT(transfer.sending, ElementsAre(0, 0, 2));
  EXPECT_THAT(transfer.receiving, ElementsAre(1, 0, 0));
}

TEST(OperationLogTest, WhatIsNotBegunWaitsForOneself) {
  OperationLog log(2, "step");
  EXPECT_THAT(log.NotReceived(0, 0, kSelf), ElementsAre(kSelf));
  EXPECT_THAT(log.NotTaken(0, 0, kSelf), ElementsAre(kSelf));
  ASSERT_TRUE(log.Begin("Publish", 0, 0, TransferOf({0, 0}, {0, 0})).ok());
  EXPECT_THAT(log.NotReceived(0, 0, kSelf), IsEmpty());
  EXPECT_THAT(log.NotReceived(0, 1, kSelf), ElementsAre(kSelf));
  EXPECT_THAT(log.NotReceived(1, 0, kSelf), ElementsAre(kSelf));
}

TEST(OperationLogTest, MembersWithMessagesUnderWayAreNamed) {
  OperationLog log(1, "step");
  const auto transfer = TransferOf({2, 0, 1}, {0, 0, 3});
  ASSERT_TRUE(log.Begin("Publish", 0, 0, transfer).ok());
  EXPECT_THAT(log.NotReceived(0, 0, kSelf), ElementsAre(0, 2));
  EXPECT_THAT(log.NotTaken(0, 0, kSelf), ElementsAre(2));
  transfer->receiving = {0, 0, 0};
  EXPECT_THAT(log.NotReceived(0, 0, kSelf), IsEmpty());
  EXPECT_THAT(log.NotTaken(0, 0, kSelf), ElementsAre(2));
}

TEST(OperationLogTest, NumbersOnlyGoUp) {
  OperationLog log(2, "micro-step");
  ASSERT_TRUE(log.Begin("Exchange", 1, 4, TransferOf({0}, {0})).ok());
  EXPECT_EQ(log.Begin("Exchange", 1, 3, TransferOf({0}, {0})),
            absl::FailedPreconditionError("Exchange of bucket 1, micro-step 3: micro-step 4 is already done"));
  EXPECT_TRUE(log.Begin("Exchange", 1, 5, TransferOf({0}, {0})).ok());
  EXPECT_TRUE(log.Begin("Exchange", 0, 0, TransferOf({0}, {0})).ok());
}

TEST(OperationLogTest, AnOlderOneUnderWayIsNotForgotten) {
  OperationLog log(1, "step");
  const auto old = TransferOf({1}, {0});
  ASSERT_TRUE(log.Begin("Publish", 0, 0, old).ok());
  ASSERT_TRUE(log.Begin("Publish", 0, 1, TransferOf({0}, {0})).ok());
  EXPECT_THAT(log.NotReceived(0, 0, kSelf), ElementsAre(0));
  old->receiving = {0};
  ASSERT_TRUE(log.Begin("Publish", 0, 2, TransferOf({0}, {0})).ok());
  EXPECT_EQ(old.use_count(), 1) << "finished ones are let go";
  EXPECT_THAT(log.NotReceived(0, 0, kSelf), IsEmpty());
}

TEST(LandingRingTest, SlotsGoRoundAndAreFreeAfterRelease) {
  LandingRing ring(2);
  EXPECT_EQ(ring.Next(), 0);
  EXPECT_EQ(ring.Next(), 1);
  EXPECT_EQ(ring.Next(), 0);
  ring.Take(0, {5, 7});
  EXPECT_FALSE(ring.is_free(0));
  EXPECT_TRUE(ring.is_free(1));
  EXPECT_FALSE(ring.Free(5, 8));
  EXPECT_FALSE(ring.is_free(0));
  EXPECT_TRUE(ring.Free(5, 7));
  EXPECT_TRUE(ring.is_free(0));
}

}  // namespace
}  // namespace shardstep
