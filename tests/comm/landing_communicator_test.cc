#include "shardstep/tests/comm/landing_communicator.h"

#include <atomic>

#include "shardstep/comm/group_rendezvous.h"
#include "shardstep/tests/comm/joining_contract.h"
#include "shardstep/tests/comm/rank_threads.h"

namespace shardstep {
namespace {

ContractBackend Landing(int world_size) {
  return {.name = absl::StrCat("Ranks", world_size),
          .run = [=](const std::function<void(Rendezvous&)>& body) { RunRankThreads(world_size, body); },
          .create =
              [](Rendezvous& rendezvous, absl::Duration wait_deadline) {
                return CreateLandingCommunicator(rendezvous, {.wait_deadline = wait_deadline});
              }};
}

INSTANTIATE_TEST_SUITE_P(Landing, CommunicatorContract, testing::Values(Landing(1), Landing(2), Landing(4)),
                         BackendName);
INSTANTIATE_TEST_SUITE_P(Landing, JoiningContract, testing::Values(Landing(1), Landing(2), Landing(4)), BackendName);

constexpr BucketExtent kTwoBuckets[] = {
    {.shard_elements = 1, .gradient_dtype = DType::kFp32},
    {.shard_elements = 1, .gradient_dtype = DType::kFp32, .gradient_begin_byte = 64, .weight_begin_byte = 64}};

class LandingCommunicatorTest : public testing::Test {
 protected:
  /// As `world_size` ranks with kTwoBuckets allocated.
  static void Run(int world_size, absl::Duration wait_deadline,
                  const std::function<void(Communicator&, Rendezvous&)>& body) {
    RunRankThreads(world_size, [&](Rendezvous& rendezvous) {
      auto communicator = CreateLandingCommunicator(rendezvous, {.wait_deadline = wait_deadline});
      ASSERT_TRUE(communicator.ok()) << communicator.status();
      ASSERT_TRUE((*communicator)->Allocate({.buckets = kTwoBuckets}).ok());
      body(**communicator, rendezvous);
      Meet(rendezvous);
    });
  }
  static void Meet(Rendezvous& rendezvous) {
    ASSERT_TRUE(rendezvous.AllGatherBytes("test", "", absl::Minutes(1)).ok());
  }
  static uint32_t FirstBits(const Slice& slice) { return LoadBits(slice.data, DType::kFp32, 0); }
};

TEST_F(LandingCommunicatorTest, SlicesAreNanBeforeTheyLandAndAfterTheirRelease) {
  Run(2, absl::Minutes(1), [](Communicator& communicator, Rendezvous& rendezvous) {
    InlineStream stream;
    StoreBits(communicator.gradients().data, DType::kFp32, 0, 5);
    StoreBits(communicator.gradients().data, DType::kFp32, 1, 5);
    if (communicator.rank() == 0) {
      ASSERT_TRUE(communicator.Exchange(0, 0, {}, stream).ok());
      EXPECT_EQ(FirstBits(communicator.slices(0, 0)[0]), 5u);
      EXPECT_EQ(FirstBits(communicator.slices(0, 0)[1]), 0xffffffffu) << "rank 1 has not sent it";
    }
    Meet(rendezvous);
    if (communicator.rank() == 1) {
      ASSERT_TRUE(communicator.Exchange(0, 0, {}, stream).ok());
    }
    ASSERT_TRUE(communicator.AwaitSlices(0, 0, stream).ok());
    EXPECT_EQ(FirstBits(communicator.slices(0, 0)[1]), 5u);
    ASSERT_TRUE(communicator.Release(0, 0, stream).ok());
    EXPECT_EQ(FirstBits(communicator.slices(0, 0)[0]), 0xffffffffu);
    EXPECT_EQ(FirstBits(communicator.slices(0, 0)[1]), 0xffffffffu);
    EXPECT_TRUE(stream.status().ok()) << stream.status();
  });
}

TEST_F(LandingCommunicatorTest, AThirdExchangeWaitsForTheReleaseOfTheFirst) {
  Run(2, absl::Milliseconds(100), [](Communicator& communicator, Rendezvous& rendezvous) {
    InlineStream stream;
    for (int b = 0; b < 2; ++b) ASSERT_TRUE(communicator.Exchange(b, 0, {}, stream).ok());
    Meet(rendezvous);
    if (communicator.rank() == 0) {
      ASSERT_TRUE(communicator.AwaitSlices(0, 0, stream).ok());
      ASSERT_TRUE(communicator.Release(0, 0, stream).ok());
      ASSERT_TRUE(stream.status().ok()) << stream.status();
      ASSERT_TRUE(communicator.Exchange(0, 1, {}, stream).ok());
      EXPECT_EQ(stream.status(),
                absl::DeadlineExceededError("Exchange of bucket 0, micro-step 1: rank 1 did not arrive within 100ms"));
    }
  });
}

TEST_F(LandingCommunicatorTest, RanksThatExchangeInDifferentOrdersAreRefused) {
  Run(2, absl::Minutes(1), [](Communicator& communicator, Rendezvous& rendezvous) {
    InlineStream stream;
    if (communicator.rank() == 1) Meet(rendezvous);
    ASSERT_TRUE(communicator.Exchange(communicator.rank(), 0, {}, stream).ok());
    if (communicator.rank() == 0) Meet(rendezvous);
    EXPECT_EQ(stream.status().code(),
              communicator.rank() == 0 ? absl::StatusCode::kOk : absl::StatusCode::kFailedPrecondition)
        << stream.status();
  });
}

TEST_F(LandingCommunicatorTest, UseOfWhatHasNotArrivedIsRefused) {
  Run(2, absl::Minutes(1), [](Communicator& communicator, Rendezvous& rendezvous) {
    InlineStream stream;
    EXPECT_EQ(communicator.AwaitSlices(0, 0, stream),
              absl::FailedPreconditionError("AwaitSlices of bucket 0, micro-step 0: before its Exchange"));
    Meet(rendezvous);
    if (communicator.rank() == 0) {
      ASSERT_TRUE(communicator.Exchange(0, 0, {}, stream).ok());
      ASSERT_TRUE(communicator.Release(0, 0, stream).ok());
      EXPECT_EQ(stream.status(), absl::FailedPreconditionError(
                                     "Release of bucket 0, micro-step 0: the slice of rank 1 has not arrived"));
    }
  });
}

// The rails of a job: the end of one is the end of all, and of the level beside them.
TEST_F(LandingCommunicatorTest, AnAbortReachesAllGroupsAndTheOtherLevel) {
  RunRankThreads(4, [](Rendezvous& parent) {
    const int rail = parent.rank() % 2;
    GroupRendezvous rendezvous(parent, {rail, rail + 2});
    std::atomic<int> calls = 0;
    std::atomic<bool> other_failed = false;
    LandingOptions options{.rank_names = {rail, rail + 2}};
    options.on_failure = [&](const absl::Status&) { calls.fetch_add(1); };
    options.other_failure = [&] { return other_failed.load() ? absl::DataLossError("rank 3: bad") : absl::OkStatus(); };
    auto communicator = CreateLandingCommunicator(rendezvous, options);
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    EXPECT_EQ((*communicator)->world_size(), 2);
    ASSERT_TRUE((*communicator)->Allocate({.buckets = kTwoBuckets}).ok());
    Meet(parent);
    if (parent.rank() == 3) other_failed.store(true);
    while (calls.load() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_EQ((*communicator)->AsyncStatus(), absl::DataLossError("rank 3: bad"));
    Meet(parent);
    EXPECT_EQ(calls.load(), 1);
  });
}

}  // namespace
}  // namespace shardstep
