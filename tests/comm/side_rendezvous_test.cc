#include "shardstep/comm/tcp/side_rendezvous.h"

#include <unistd.h>

#include <array>
#include <thread>

#include "shardstep/comm/group_rendezvous.h"
#include "shardstep/comm/mutex.h"
#include "shardstep/comm/tcp/listening_rendezvous.h"
#include "shardstep/tests/comm/rank_threads.h"
#include "shardstep/tests/comm/rendezvous_contract.h"

namespace shardstep {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

constexpr absl::Duration kLong = absl::Minutes(1);

std::vector<int> RanksUpTo(int count) {
  std::vector<int> ranks;
  for (int rank = 0; rank < count; ++rank) ranks.push_back(rank);
  return ranks;
}

RendezvousBackend AllRanks(int world_size) {
  return {.name = absl::StrCat("Ranks", world_size),
          .run = [=](const std::function<void(Rendezvous&, Rendezvous&)>& body) {
            RunRankThreads(world_size, [&](Rendezvous& meeting) {
              const auto side = CreateSideRendezvous(meeting, RanksUpTo(world_size), {.deadline = kLong});
              ASSERT_TRUE(side.ok()) << side.status();
              body(**side, meeting);
            });
          }};
}

INSTANTIATE_TEST_SUITE_P(AllRanks, RendezvousContract, testing::Values(AllRanks(1), AllRanks(2), AllRanks(4)),
                         RendezvousName);

/// As rank r of a parent of five, in one of these groups.
const std::vector<std::vector<int>>& Groups() {
  static const std::vector<std::vector<int>> groups = {{4, 0}, {1, 3, 2}};
  return groups;
}

const std::vector<int>& GroupOf(int rank) { return Groups()[rank == 0 || rank == 4 ? 0 : 1]; }

void RunGroups(const std::function<void(Rendezvous& side, Rendezvous& parent)>& body) {
  RunRankThreads(5, [&](Rendezvous& parent) {
    const auto side = CreateSideRendezvous(parent, GroupOf(parent.rank()), {.deadline = kLong});
    ASSERT_TRUE(side.ok()) << side.status();
    body(**side, parent);
  });
}

std::vector<std::string> Gather(Rendezvous& rendezvous, absl::string_view what, absl::string_view bytes) {
  auto all = rendezvous.AllGatherBytes(what, bytes, kLong);
  EXPECT_TRUE(all.ok()) << all.status();
  return all.ok() ? *std::move(all) : std::vector<std::string>();
}

TEST(SideRendezvousTest, GroupsMeetEachByItself) {
  RunGroups([](Rendezvous& side, Rendezvous& parent) {
    const std::vector<int>& group = GroupOf(parent.rank());
    EXPECT_EQ(group[static_cast<size_t>(side.rank())], parent.rank());
    ASSERT_EQ(side.world_size(), static_cast<int>(group.size()));
    EXPECT_EQ(&side.everyone(), &side);
    std::vector<std::string> expected;
    for (const int member : group) expected.push_back(absl::StrCat("of ", member));
    // One group meets more often than the other.
    for (size_t round = 0; round < group.size(); ++round) {
      EXPECT_EQ(Gather(side, absl::StrCat("round ", round), absl::StrCat("of ", parent.rank())), expected);
    }
  });
}

// Every rank's meeting in the parent has begun before any in the side ends, and the other way round.
TEST(SideRendezvousTest, NeitherWaitsForTheOther) {
  RunRankThreads(2, [&](Rendezvous& parent) {
    const auto side = CreateSideRendezvous(parent, {1, 0}, {.deadline = kLong});
    ASSERT_TRUE(side.ok()) << side.status();
    if (parent.rank() == 0) {
      std::thread other([&] { Gather(parent, "parent, after the side's", ""); });
      Gather(**side, "side, while the parent's waits", "");
      other.join();
      std::thread another([&] { Gather(**side, "side, after the parent's", ""); });
      Gather(parent, "parent, while the side's waits", "");
      another.join();
    } else {
      Gather(**side, "side, while the parent's waits", "");
      Gather(parent, "parent, after the side's", "");
      Gather(parent, "parent, while the side's waits", "");
      Gather(**side, "side, after the parent's", "");
    }
  });
}

TEST(SideRendezvousTest, ManyMeetingsOfBothAtTheSameTime) {
  RunGroups([](Rendezvous& side, Rendezvous& parent) {
    std::thread other([&] {
      for (int i = 0; i < 200; ++i) EXPECT_EQ(Gather(parent, "parent", "").size(), 5u);
    });
    const size_t members = GroupOf(parent.rank()).size();
    for (int i = 0; i < 200; ++i) EXPECT_EQ(Gather(side, "side", "").size(), members);
    other.join();
  });
}

TEST(SideRendezvousTest, EitherMayGoFirst) {
  ThreadRendezvousGroup group(2);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&group, rank] {
      std::unique_ptr<Rendezvous> parent = group.Join(rank);
      auto side = CreateSideRendezvous(*parent, {0, 1}, {.deadline = kLong});
      ASSERT_TRUE(side.ok()) << side.status();
      auto second = CreateSideRendezvous(*parent, {1, 0}, {.deadline = kLong});
      ASSERT_TRUE(second.ok()) << second.status();
      side->reset();
      Gather(*parent, "without the first", "");
      parent.reset();
      Gather(**second, "without the parent", "");
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(SideRendezvousTest, MessagesNameRanksOfTheParentAndErrorsStayInTheirGroup) {
  RunGroups([](Rendezvous& side, Rendezvous& parent) {
    if (parent.rank() == 0 || parent.rank() == 4) {
      EXPECT_EQ(AgreeOnStatus(side, "arena", absl::OkStatus(), kLong), absl::OkStatus());
    } else {
      const absl::Status mine = parent.rank() == 3 ? absl::ResourceExhaustedError("no memory") : absl::OkStatus();
      EXPECT_EQ(AgreeOnStatus(side, "arena", mine, kLong), absl::ResourceExhaustedError("rank 3: no memory"));
      if (parent.rank() == 2) side.Fail(absl::DataLossError("bad"));
      EXPECT_EQ(side.AllGatherBytes("next", "", kLong).status(),
                AbortedBy(2, absl::StatusCode::kDataLoss, "failed: bad"));
    }
    Gather(parent, "all the same", "");
    if (GroupOf(parent.rank()).size() == 2) Gather(side, "all the same", "");
  });
  RunGroups([](Rendezvous& side, Rendezvous& parent) {
    if (parent.rank() == 1) {
      EXPECT_EQ(side.AllGatherBytes("handles", "", absl::Milliseconds(100)).status().message(),
                "handles: ranks 2, 3 did not arrive within 100ms");
    }
    Gather(parent, "afterwards", "");
  });
  RunGroups([](Rendezvous& side, Rendezvous& parent) {
    if (GroupOf(parent.rank()).size() != 3) return;
    const absl::Status status = side.AllGatherBytes(parent.rank() == 3 ? "save" : "step", "", kLong).status();
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("rank 1 is at \"step\""), HasSubstr("rank 3 at \"save\"")));
  });
}

TEST(SideRendezvousTest, AParentMayBeAGroupOrASideItself) {
  RunRankThreads(4, [](Rendezvous& job) {
    const int first = job.rank() % 2;
    GroupRendezvous group(job, {first, first + 2});
    const auto side = CreateSideRendezvous(group, {1, 0}, {.deadline = kLong});
    ASSERT_TRUE(side.ok()) << side.status();
    EXPECT_THAT(Gather(**side, "side of a group", absl::StrCat(job.rank())),
                ElementsAre(absl::StrCat(first + 2), absl::StrCat(first)));
    EXPECT_EQ((*side)->rank_name(0), first + 2);
    const auto inner = CreateSideRendezvous(**side, {1, 0}, {.deadline = kLong});
    ASSERT_TRUE(inner.ok()) << inner.status();
    EXPECT_EQ((*inner)->rank_name(0), first);
    EXPECT_EQ(AgreeOnStatus(**inner, "load", job.rank() < 2 ? absl::DataLossError("bad") : absl::OkStatus(), kLong),
              absl::DataLossError(absl::StrCat("rank ", first, ": bad")));
  });
}

// ---- Refusals -------------------------------------------------------------------------------------------------------

/// What a parent of three is told, the same on every rank; rank r calls with members[r] and options[r].
absl::Status Refusal(const std::array<std::vector<int>, 3>& members,
                     const std::array<SideRendezvousOptions, 3>& options = {}) {
  std::array<absl::Status, 3> statuses;
  RunRankThreads(3, [&](Rendezvous& parent) {
    const auto rank = static_cast<size_t>(parent.rank());
    statuses[rank] = CreateSideRendezvous(parent, members[rank], options[rank]).status();
    Gather(parent, "afterwards", "");
  });
  EXPECT_EQ(statuses[1], statuses[0]);
  EXPECT_EQ(statuses[2], statuses[0]);
  return statuses[0];
}

TEST(SideRendezvousTest, OptionsOfOneRankAreRefusedByNameOnAll) {
  const std::array<std::vector<int>, 3> members = {{{0, 1, 2}, {0, 1, 2}, {0, 1, 2}}};
  EXPECT_EQ(Refusal(members, {{{}, {.deadline = absl::ZeroDuration()}, {}}}),
            absl::InvalidArgumentError("rank 1: deadline: 0 is not positive"));
  EXPECT_EQ(Refusal(members, {{{}, {}, {.host_address = "[::1]"}}}),
            absl::InvalidArgumentError("rank 2: host_address: \"[::1]\" is neither a name nor an address"));
}

TEST(SideRendezvousTest, MembersHaveToFitTogether) {
  EXPECT_EQ(Refusal({{{0, 1}, {0, 1}, {0, 1}}}),
            absl::InvalidArgumentError("rank 2: members: 0, 1: this rank is not among them"));
  EXPECT_EQ(Refusal({{{0, 1, 0}, {0, 1}, {2}}}),
            absl::InvalidArgumentError("rank 0: members: 0, 1, 0: a rank is there twice"));
  EXPECT_EQ(Refusal({{{0}, {1, 3}, {2}}}), absl::InvalidArgumentError("rank 1: members: 1, 3: not all are in 0..2"));
  EXPECT_EQ(Refusal({{{0}, {-1, 1}, {2}}}), absl::InvalidArgumentError("rank 1: members: -1, 1: not all are in 0..2"));
  EXPECT_EQ(Refusal({{{0, 1}, {0, 1}, {1, 2}}}),
            absl::FailedPreconditionError("CreateSideRendezvous: rank 2 has members 1, 2; rank 1 has members 0, 1"));
  EXPECT_EQ(
      Refusal({{{0, 1, 2}, {0, 1, 2}, {2, 1, 0}}}),
      absl::FailedPreconditionError("CreateSideRendezvous: rank 0 has members 0, 1, 2; rank 2 has members 2, 1, 0"));
}

TEST(SideRendezvousTest, AMemberThatNeverComesIsNamed) {
  RunRankThreads(3, [](Rendezvous& parent) {
    if (parent.rank() == 1) return;
    EXPECT_EQ(CreateSideRendezvous(parent, {0, 1, 2}, {.deadline = absl::Milliseconds(100)}).status(),
              absl::DeadlineExceededError("CreateSideRendezvous: rank 1 did not arrive within 100ms"));
  });
}

// An address that documents only have: nobody answers there. The other group, which could meet, is told too.
TEST(SideRendezvousTest, AnAddressThatCannotBeReachedIsNamedOnAllRanks) {
  RunRankThreads(3, [](Rendezvous& parent) {
    const std::vector<int> members = parent.rank() == 1 ? std::vector<int>{1} : std::vector<int>{2, 0};
    const absl::Status status =
        CreateSideRendezvous(parent, members, {.deadline = absl::Seconds(1), .host_address = "192.0.2.1"}).status();
    EXPECT_EQ(CauseOf(status), absl::StatusCode::kDeadlineExceeded) << status;
    EXPECT_THAT(std::string(status.message()),
                AllOf(StartsWith("rank 0: "), HasSubstr("rank 2 did not arrive within 1s"), HasSubstr("192.0.2.1:")));
    Gather(parent, "afterwards", "");
  });
}

/// A parent that remembers what this rank has said.
class ListeningParent : public Rendezvous {
 public:
  explicit ListeningParent(Rendezvous& parent) : parent_(parent) {}
  int rank() const override { return parent_.rank(); }
  int world_size() const override { return parent_.world_size(); }
  absl::StatusOr<std::vector<std::string>> AllGatherBytes(absl::string_view what, absl::string_view bytes,
                                                          absl::Duration deadline) override {
    if (what == "CreateSideRendezvous: address") address = std::string(bytes);
    return parent_.AllGatherBytes(what, bytes, deadline);
  }
  void Fail(const absl::Status& reason) override { parent_.Fail(reason); }

  std::string address;

 private:
  Rendezvous& parent_;
};

std::string AddressOfFirst(const std::array<std::string, 2>& host_ids, const std::string& host_address) {
  std::string address;
  RunRankThreads(2, [&](Rendezvous& rendezvous) {
    ListeningParent parent(rendezvous);
    // Whether the system's own name can be reached is the system's business.
    CreateSideRendezvous(parent, {0, 1},
                         {.deadline = absl::Seconds(1),
                          .host_address = host_address,
                          .host_id = host_ids[static_cast<size_t>(parent.rank())]})
        .IgnoreError();
    if (parent.rank() == 0) address = parent.address;
  });
  return address;
}

TEST(SideRendezvousTest, LoopbackIsForOneHostAndTheHostsNameForSeveral) {
  std::array<char, 256> name{};
  ASSERT_EQ(gethostname(name.data(), name.size() - 1), 0);
  EXPECT_THAT(AddressOfFirst({"a", "a"}, ""), HasSubstr(" 127.0.0.1:"));
  EXPECT_THAT(AddressOfFirst({"", ""}, ""), HasSubstr(" 127.0.0.1:"));
  EXPECT_THAT(AddressOfFirst({"a", "b"}, ""), HasSubstr(absl::StrCat(" ", name.data(), ":")));
  EXPECT_THAT(AddressOfFirst({"a", "b"}, "localhost"), HasSubstr(" localhost:"));
  EXPECT_THAT(AddressOfFirst({"a", "a"}, "::1"), HasSubstr(" [::1]:"));
}

// A port that another job has taken over.
TEST(ListeningRendezvousTest, ARankWithAnotherKeyIsTurnedAway) {
  absl::StatusOr<Descriptor> listener = Listen({.host = "127.0.0.1", .port = "0"});
  ASSERT_TRUE(listener.ok()) << listener.status();
  const absl::StatusOr<std::string> port = PortOf(*listener);
  ASSERT_TRUE(port.ok()) << port.status();
  const auto options = [&](int rank) {
    return TcpRendezvousOptions{.address = absl::StrCat("127.0.0.1:", *port), .rank = rank, .world_size = 2};
  };
  std::thread first([&] {
    const auto rendezvous = CreateListeningRendezvous(options(0), 7, *std::move(listener));
    EXPECT_TRUE(rendezvous.ok()) << rendezvous.status();
  });
  const absl::Status refused = CreateListeningRendezvous(options(1), 8, Descriptor()).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("it is of another job"));
  EXPECT_EQ(CreateTcpRendezvous(options(1)).status(), refused);
  auto rendezvous = CreateListeningRendezvous(options(1), 7, Descriptor());
  EXPECT_TRUE(rendezvous.ok()) << rendezvous.status();
  if (rendezvous.ok()) rendezvous->reset();
  first.join();
}

}  // namespace
}  // namespace shardstep
