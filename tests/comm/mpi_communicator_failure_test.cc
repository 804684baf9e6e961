// What communicators over MPI do when ranks fail, leave, disagree or come late.

#include <signal.h>
#include <unistd.h>

#include <atomic>

#include "shardstep/comm/rank_list.h"
#include "shardstep/tests/comm/mpi_job.h"

namespace shardstep {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// Three buckets whose shards are too long for MPI to send before the receiver is there.
constexpr int64_t kLongShardElements = 1 << 18;
std::vector<BucketExtent> LongBuckets(int world_size) {
  std::vector<BucketExtent> buckets(3);
  for (int b = 0; b < 3; ++b) {
    buckets[static_cast<size_t>(b)] = {.shard_elements = kLongShardElements,
                                       .gradient_begin_byte = b * kLongShardElements * 2 * world_size,
                                       .weight_begin_byte = b * kLongShardElements * 2 * world_size};
  }
  return buckets;
}

class MpiCommunicatorFailureTest : public MpiJobTest {
 protected:
  std::unique_ptr<Communicator> CreateLong(const MpiCommunicatorOptions& options) {
    std::unique_ptr<Communicator> communicator = Create(options);
    const auto buckets = LongBuckets(world_size());
    const absl::Status status = communicator->Allocate({.buckets = buckets});
    EXPECT_TRUE(status.ok()) << status;
    return communicator;
  }

  std::string OtherRanks() {
    std::vector<int> others = RanksUpTo(world_size());
    others.erase(others.begin() + rank());
    return RankList(others);
  }

  using Call = std::function<absl::Status(Communicator&, Stream&)>;

  /// The last rank aborts while the others, which have called `before`, are in `wait`.
  void ExpectAbortEnds(const std::vector<Call>& before, const Call& wait) {
    const auto communicator = CreateLong({.wait_deadline = kLong});
    const int last = world_size() - 1;
    if (rank() != last) {
      for (const Call& call : before) EXPECT_TRUE(Await([&](Stream& s) { return call(*communicator, s); }).ok());
    }
    Meet();
    if (rank() == last) {
      SleepMs(50);
      communicator->Abort(absl::DataLossError("torn"));
    } else {
      const absl::Status status = Await([&](Stream& s) { return wait(*communicator, s); });
      EXPECT_EQ(status, AbortedBy(last, absl::StatusCode::kDataLoss, "aborted: torn"));
      EXPECT_EQ(CauseOf(status), absl::StatusCode::kDataLoss);
    }
    Meet();
  }
};

absl::Status PublishBucket0(Communicator& c, Stream& s) { return c.Publish(0, 0, s); }
absl::Status ExchangeBucket0(Communicator& c, Stream& s) { return c.Exchange(0, 0, {}, s); }
absl::Status ExchangeBucket1(Communicator& c, Stream& s) { return c.Exchange(1, 0, {}, s); }

TEST_F(MpiCommunicatorFailureTest, AbortEndsAwaitSlices) {
  ExpectAbortEnds({ExchangeBucket0}, [](Communicator& c, Stream& s) { return c.AwaitSlices(0, 0, s); });
}

TEST_F(MpiCommunicatorFailureTest, AbortEndsAwaitReleased) {
  ExpectAbortEnds({ExchangeBucket0}, [](Communicator& c, Stream& s) { return c.AwaitReleased(0, 0, s); });
}

TEST_F(MpiCommunicatorFailureTest, AbortEndsTheWaitForALandingSlot) {
  ExpectAbortEnds({ExchangeBucket0, ExchangeBucket1},
                  [](Communicator& c, Stream& s) { return c.Exchange(2, 0, {}, s); });
}

TEST_F(MpiCommunicatorFailureTest, AbortEndsAllReduceSmall) {
  SmallReduction reduction;
  ExpectAbortEnds({}, [&](Communicator& c, Stream& s) { return c.AllReduceSmall(&reduction, s); });
}

TEST_F(MpiCommunicatorFailureTest, AbortEndsAwaitPublished) {
  ExpectAbortEnds({PublishBucket0}, [](Communicator& c, Stream& s) { return c.AwaitPublished(0, 0, s); });
}

TEST_F(MpiCommunicatorFailureTest, OthersHearOfAnAbortByWhoIsGoneAtOnce) {
  auto communicator = Create({.wait_deadline = kLong});
  Meet();
  if (rank() == 0) {
    communicator->Abort(absl::DataLossError("torn"));
    communicator.reset();
  } else {
    SmallReduction reduction;
    EXPECT_EQ(Await([&](Stream& s) { return communicator->AllReduceSmall(&reduction, s); }),
              AbortedBy(0, absl::StatusCode::kDataLoss, "aborted: torn"));
  }
  Meet();
}

TEST_F(MpiCommunicatorFailureTest, AwaitReleasedNamesWhoHasNotTakenTheMessages) {
  const auto communicator = CreateLong({.wait_deadline = kShort});
  if (rank() == 0) {
    EXPECT_TRUE(Await([&](Stream& s) { return communicator->Exchange(0, 0, {}, s); }).ok());
    EXPECT_EQ(Await([&](Stream& s) { return communicator->AwaitReleased(0, 0, s); }),
              absl::DeadlineExceededError(absl::StrCat("AwaitReleased of bucket 0, micro-step 0: ", OtherRanks(),
                                                       " did not arrive within 150ms")));
  }
  Meet();
}

TEST_F(MpiCommunicatorFailureTest, AnUnreleasedSlotIsNamedAndTheOwnRank) {
  const auto communicator = CreateLong({.wait_deadline = kShort, .landing_buckets = 2});
  for (const int bucket : {0, 1}) {
    EXPECT_TRUE(Await([&](Stream& s) { return communicator->Exchange(bucket, 0, {}, s); }).ok());
  }
  EXPECT_EQ(Await([&](Stream& s) { return communicator->Exchange(2, 0, {}, s); }),
            absl::DeadlineExceededError(absl::StrCat(
                "Exchange of bucket 2, micro-step 0 (its landing slot holds bucket 0, micro-step 0): rank ", rank(),
                " did not arrive within 150ms")));
  Meet();
}

TEST_F(MpiCommunicatorFailureTest, ReleaseOfWhatHasNotArrivedIsRefused) {
  const auto communicator = CreateLong({.wait_deadline = kLong});
  EXPECT_EQ(Await([&](Stream& s) { return communicator->Release(1, 3, s); }),
            absl::FailedPreconditionError("Release of bucket 1, micro-step 3: its slices have not arrived"));
  Meet();
}

// The clock starts with the first arrival, and whoever is missing is known to the first member alone.
TEST_F(MpiCommunicatorFailureTest, AllReduceSmallNamesAnyAbsentRankEverywhere) {
  for (const int absent : {0, world_size() - 1}) {
    const auto communicator = Create({.wait_deadline = kShort});
    SmallReduction reduction;
    const absl::Status expected = absl::DeadlineExceededError(
        absl::StrCat("AllReduceSmall number 0: rank ", absent, " did not arrive within 150ms"));
    const auto reduce = [&] { return Await([&](Stream& s) { return communicator->AllReduceSmall(&reduction, s); }); };
    if (rank() != absent) {
      EXPECT_EQ(reduce(), expected);
    }
    Meet();
    if (rank() == absent) {
      EXPECT_EQ(reduce(), expected) << "who comes too late learns it too";
    }
    Meet();
  }
}

// A first member that is stopped, not just late, cannot say who is missing; the others find out by themselves.
TEST_F(MpiCommunicatorFailureTest, AStoppedFirstMemberIsNamedByTheOthers) {
  const auto communicator = Create({.wait_deadline = kShort});
  const auto pids = rendezvous().AllGatherBytes("pids", absl::StrCat(getpid()), kLong);
  ASSERT_TRUE(pids.ok()) << pids.status();
  Meet();
  const pid_t first = std::stoi((*pids)[0]);
  const bool is_last = rank() == world_size() - 1;
  if (is_last) kill(first, SIGSTOP);
  if (rank() != 0) {
    SmallReduction reduction;
    EXPECT_EQ(Await([&](Stream& s) { return communicator->AllReduceSmall(&reduction, s); }),
              absl::DeadlineExceededError("AllReduceSmall number 0: rank 0 did not arrive within 150ms"));
  }
  if (is_last) {
    SleepMs(500);  // the others are through
    kill(first, SIGCONT);
  }
  Meet();
}

TEST_F(MpiCommunicatorFailureTest, AnotherLevelsFailureEndsAllRanksAndIsReportedOnce) {
  std::atomic<bool> fails = false;
  std::atomic<int> reports = 0;
  const absl::Status failure = AbortedBy(17, absl::StatusCode::kResourceExhausted, "aborted: no memory");
  absl::Status reported;
  const auto communicator = Create({.wait_deadline = kLong,
                                    .other_failure = [&] { return fails.load() ? failure : absl::OkStatus(); },
                                    .on_failure =
                                        [&](const absl::Status& status) {
                                          reported = status;
                                          reports.fetch_add(1);
                                        }});
  if (rank() == world_size() - 1) fails.store(true);
  SmallReduction reduction;
  absl::Status status;
  for (int i = 0; i < 1000 && status.ok(); ++i) {
    status = Await([&](Stream& s) { return communicator->AllReduceSmall(&reduction, s); });
  }
  EXPECT_EQ(status, failure);
  EXPECT_EQ(CauseOf(status), absl::StatusCode::kResourceExhausted);
  for (int i = 0; i < 5000 && reports.load() == 0; ++i) SleepMs(1);
  communicator->Abort(absl::InternalError("later"));
  SleepMs(20);
  EXPECT_EQ(reports.load(), 1);
  EXPECT_EQ(reported, failure);
  Meet();
}

TEST_F(MpiCommunicatorFailureTest, RanksThatSendOtherLengthsEndAllWithTheOperationNamed) {
  const auto communicator = Create({.wait_deadline = kLong});
  const BucketExtent bucket{.shard_elements = 512};
  ASSERT_TRUE(communicator->Allocate({.buckets = {&bucket, 1}, .contributions = 1}).ok());
  const std::vector<float> values(static_cast<size_t>(512 * world_size()));
  const Slice contribution{.data = values.data(), .dtype = rank() == 0 ? DType::kFp32 : DType::kBf16};
  Meet();
  const absl::Status status = AwaitBoth(
      [&](Stream& s) {
        return communicator->Exchange(0, 0, {&contribution, 1}, s);
      },
      [&](Stream& s) { return communicator->AwaitSlices(0, 0, s); });
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(CauseOf(status), absl::StatusCode::kInternal) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("Exchange of bucket 0, micro-step 0"));
  Meet();
}

// Contributions and given weights excepted, which the caller owns, nothing that MPI may still touch goes away.
TEST_F(MpiCommunicatorFailureTest, DestructionDoesNotWaitForPeersThatNeverCome) {
  auto communicator = CreateLong({.wait_deadline = kLong});
  Meet();
  if (rank() == 0) {
    EXPECT_TRUE(Await([&](Stream& s) { return communicator->Exchange(0, 0, {}, s); }).ok());
    EXPECT_TRUE(Await([&](Stream& s) { return communicator->Publish(1, 0, s); }).ok());
    const absl::Time begin = absl::Now();
    communicator.reset();
    EXPECT_LT(absl::Now() - begin, absl::Seconds(20));
  }
  Meet();
}

TEST_F(MpiCommunicatorFailureTest, BadOptionsAreRefusedEverywhereByName) {
  const auto refused = [&](const MpiCommunicatorOptions& options, std::vector<int> members) {
    return std::string(CreateMpiCommunicator(rendezvous(), std::move(members), options).status().message());
  };
  const std::vector<int> all = RanksUpTo(world_size());
  EXPECT_EQ(refused({.wait_deadline = absl::ZeroDuration()}, all), "rank 0: wait_deadline = 0 is not positive");
  EXPECT_EQ(refused({.max_message_bytes = 4095}, all), "rank 0: max_message_bytes = 4095 is below 4096");
  EXPECT_EQ(refused({.landing_buckets = 1}, all), "rank 0: landing_buckets = 1 is below 2");
  EXPECT_THAT(refused({}, {0, 0}), HasSubstr("members = 0, 0: not distinct ranks"));
  EXPECT_THAT(refused({}, {world_size()}), HasSubstr("not distinct ranks"));
}

// R5: before any data moves, with both ranks.
TEST_F(MpiCommunicatorFailureTest, OptionsThatDifferAreRefusedEverywhere) {
  const int last = world_size() - 1;
  const MpiCommunicatorOptions options{.max_message_bytes = rank() == last ? 8192 : 4096};
  const auto communicator = CreateMpiCommunicator(rendezvous(), RanksUpTo(world_size()), options);
  EXPECT_EQ(communicator.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(communicator.status().message()),
              AllOf(HasSubstr("rank 0 has"), HasSubstr(absl::StrCat("rank ", last, " has")),
                    HasSubstr("max_message_bytes = 4096"), HasSubstr("max_message_bytes = 8192")));
}

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) { return shardstep::MpiJobMain(argc, argv); }
