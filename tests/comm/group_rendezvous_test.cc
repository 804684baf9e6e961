#include "shardstep/comm/group_rendezvous.h"

#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/tests/comm/rank_threads.h"
#include "shardstep/tests/comm/rendezvous_contract.h"

namespace shardstep {
namespace {

constexpr absl::Duration kLong = absl::Minutes(1);

// A group of all ranks is a rendezvous like any other.
RendezvousBackend WholeGroup(int world_size) {
  return {.name = absl::StrCat("Ranks", world_size),
          .run = [=](const std::function<void(Rendezvous&, Rendezvous&)>& body) {
            ThreadRendezvousGroup tested(world_size);
            RunRankThreads(world_size, [&](Rendezvous& meeting) {
              std::vector<int> members;
              for (int rank = 0; rank < world_size; ++rank) members.push_back(rank);
              const std::unique_ptr<Rendezvous> parent = tested.Join(meeting.rank());
              GroupRendezvous group(*parent, members);
              body(group, meeting);
            });
          }};
}

INSTANTIATE_TEST_SUITE_P(WholeGroup, RendezvousContract, testing::Values(WholeGroup(1), WholeGroup(3)), RendezvousName);

/// As rank r of a parent of four, in the group of {0, 2} or {1, 3}.
void RunTwoGroups(const std::function<void(GroupRendezvous& group, Rendezvous& parent)>& body) {
  RunRankThreads(4, [&](Rendezvous& parent) {
    const int first = parent.rank() % 2;
    GroupRendezvous group(parent, {first, first + 2});
    body(group, parent);
  });
}

TEST(GroupRendezvousTest, MembersSeeTheirOwnPartOfEachMeeting) {
  RunTwoGroups([](GroupRendezvous& group, Rendezvous& parent) {
    EXPECT_EQ(group.rank(), parent.rank() / 2);
    ASSERT_EQ(group.world_size(), 2);
    for (int round = 0; round < 3; ++round) {
      const auto all = group.AllGatherBytes("round", absl::StrCat(round, " of ", parent.rank()), kLong);
      ASSERT_TRUE(all.ok()) << all.status();
      const int first = parent.rank() % 2;
      EXPECT_THAT(*all,
                  testing::ElementsAre(absl::StrCat(round, " of ", first), absl::StrCat(round, " of ", first + 2)));
    }
  });
}

TEST(GroupRendezvousTest, TheErrorOfOneGroupIsThatOfAllByItsRankInTheParent) {
  RunTwoGroups([](GroupRendezvous& group, Rendezvous& parent) {
    const absl::Status mine = parent.rank() == 2 ? absl::ResourceExhaustedError("no memory") : absl::OkStatus();
    EXPECT_EQ(AgreeOnStatus(group, "arena", mine, kLong), absl::ResourceExhaustedError("rank 2: no memory"));
    EXPECT_TRUE(AgreeOnStatus(group, "still in step", absl::OkStatus(), kLong).ok());
  });
}

TEST(GroupRendezvousTest, AbsentRanksAndThoseThatFailAreNamedAsInTheParent) {
  RunTwoGroups([](GroupRendezvous& group, Rendezvous& parent) {
    if (parent.rank() == 3) return;
    EXPECT_EQ(group.AllGatherBytes("handles", "", absl::Milliseconds(100)).status().message(),
              "handles: rank 3 did not arrive within 100ms");
  });
  RunTwoGroups([](GroupRendezvous& group, Rendezvous& parent) {
    if (parent.rank() == 3) group.Fail(absl::DataLossError("bad"));
    const absl::Status status = group.AllGatherBytes("handles", "", kLong).status();
    EXPECT_EQ(status, AbortedBy(3, absl::StatusCode::kDataLoss, "failed: bad"));
  });
}

// Two hosts of one job on this machine: each has arenas of its own, and what one cannot do, neither does.
TEST(GroupRendezvousTest, HostsOfOneJobMakeTheirCommunicatorsTogether) {
  RunTwoGroups([](GroupRendezvous& group, Rendezvous& parent) {
    const int first = parent.rank() % 2;
    SharedMemoryOptions options{.host_id = absl::StrCat("host ", first), .rank_names = {first, first + 2}};
    const BucketExtent bucket{.shard_elements = 64};
    auto communicator = CreateShmCommunicator(group, options);
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    ASSERT_TRUE((*communicator)->Allocate({.buckets = {&bucket, 1}}).ok());
    (*communicator)->weights().data[group.rank()] = static_cast<std::byte>(10 + parent.rank());
    ASSERT_TRUE(parent.AllGatherBytes("written", "", kLong).ok());
    EXPECT_EQ((*communicator)->weights().data[0], static_cast<std::byte>(10 + first));
    EXPECT_EQ((*communicator)->weights().data[1], static_cast<std::byte>(12 + first));
    ASSERT_TRUE(parent.AllGatherBytes("read", "", kLong).ok());

    if (parent.rank() == 3) options.host_id = "elsewhere";
    const std::string difference = "Create: host_id differs: rank 1 has host 1, rank 3 has elsewhere";
    EXPECT_EQ(CreateShmCommunicator(group, options).status(),
              absl::FailedPreconditionError(first == 1 ? difference : absl::StrCat("rank 1: ", difference)));
    ASSERT_TRUE(parent.AllGatherBytes("in step", "", kLong).ok());
  });
}

}  // namespace
}  // namespace shardstep
