#include "shardstep/comm/levels.h"

#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shardstep/tests/comm/delaying_communicator.h"
#include "shardstep/tests/comm/rank_threads.h"

namespace shardstep {
namespace {

using testing::ElementsAre;

/// The maps of all ranks, of which rank r is on the host with id ids[r].
std::vector<HostMap> Map(const std::vector<std::string>& ids) {
  std::vector<HostMap> maps(ids.size());
  RunRankThreads(static_cast<int>(ids.size()), [&](Rendezvous& rendezvous) {
    const auto rank = static_cast<size_t>(rendezvous.rank());
    absl::StatusOr<HostMap> map = MapHosts(rendezvous, ids[rank], absl::Minutes(1));
    ASSERT_TRUE(map.ok()) << map.status();
    maps[rank] = *std::move(map);
  });
  return maps;
}

/// Every rank has the same hosts and finds itself in them.
void ExpectConsistent(const std::vector<HostMap>& maps) {
  for (size_t rank = 0; rank < maps.size(); ++rank) {
    const HostMap& map = maps[rank];
    EXPECT_EQ(map.hosts, maps[0].hosts);
    ASSERT_LT(map.host, map.host_count());
    ASSERT_LT(map.local_rank, map.ranks_per_host());
    EXPECT_EQ(map.hosts[static_cast<size_t>(map.host)][static_cast<size_t>(map.local_rank)], static_cast<int>(rank));
  }
}

TEST(LevelsTest, RanksInBlocks) {
  const std::vector<HostMap> maps = Map({"a", "a", "a", "b", "b", "b"});
  ExpectConsistent(maps);
  EXPECT_THAT(maps[0].hosts, ElementsAre(ElementsAre(0, 1, 2), ElementsAre(3, 4, 5)));
  EXPECT_EQ(maps[4].host, 1);
  EXPECT_EQ(maps[4].local_rank, 1);
  EXPECT_THAT(maps[0].RanksByPosition(), ElementsAre(0, 3, 1, 4, 2, 5));
}

// As mpirun --map-by node places them.
TEST(LevelsTest, RanksRoundRobin) {
  const std::vector<HostMap> maps = Map({"x", "b", "c", "x", "b", "c"});
  ExpectConsistent(maps);
  EXPECT_THAT(maps[0].hosts, ElementsAre(ElementsAre(0, 3), ElementsAre(1, 4), ElementsAre(2, 5)));
  EXPECT_THAT(maps[0].RanksByPosition(), ElementsAre(0, 1, 2, 3, 4, 5));
}

// Hosts are in the order of their lowest ranks, whatever their names; the shard of hosts[h][l] is number l * 2 + h.
TEST(LevelsTest, RanksInAnyOrder) {
  const std::vector<HostMap> maps = Map({"z", "a", "a", "z", "z", "a"});
  ExpectConsistent(maps);
  EXPECT_THAT(maps[0].hosts, ElementsAre(ElementsAre(0, 3, 4), ElementsAre(1, 2, 5)));
  const std::vector<int> by_position = maps[5].RanksByPosition();
  EXPECT_THAT(by_position, ElementsAre(0, 1, 3, 2, 4, 5));
  for (int h = 0; h < 2; ++h) {
    for (int l = 0; l < 3; ++l) {
      EXPECT_EQ(by_position[static_cast<size_t>(l * 2 + h)],
                maps[0].hosts[static_cast<size_t>(h)][static_cast<size_t>(l)]);
    }
  }
}

TEST(LevelsTest, UnevenHostsLeaveEveryRankAlone) {
  const std::vector<HostMap> maps = Map({"a", "b", "a", "a"});
  ExpectConsistent(maps);
  EXPECT_THAT(maps[0].hosts, ElementsAre(ElementsAre(0), ElementsAre(1), ElementsAre(2), ElementsAre(3)));
  EXPECT_EQ(maps[0].ranks_per_host(), 1);
  EXPECT_THAT(maps[0].RanksByPosition(), ElementsAre(0, 1, 2, 3));
}

TEST(LevelsTest, OneHost) {
  const std::vector<HostMap> maps = Map({"a", "a", "a"});
  ExpectConsistent(maps);
  EXPECT_THAT(maps[0].hosts, ElementsAre(ElementsAre(0, 1, 2)));
  EXPECT_THAT(maps[0].RanksByPosition(), ElementsAre(0, 1, 2));
}

TEST(LevelsTest, RailsJoinTheRanksOfOnePlace) {
  const std::vector<HostMap> maps = Map({"z", "a", "a", "z", "z", "a"});
  EXPECT_THAT(maps[3].Rail(), ElementsAre(3, 2));
  EXPECT_THAT(maps[2].Rail(), ElementsAre(3, 2));
  EXPECT_THAT(maps[5].Rail(), ElementsAre(4, 5));
}

TEST(LevelsTest, RanksOfUnequalHostsAreCounted) {
  RunRankThreads(4, [](Rendezvous& rendezvous) {
    const auto counts = CountRanksOfHosts(rendezvous, rendezvous.rank() == 1 ? "b" : "a", absl::Minutes(1));
    ASSERT_TRUE(counts.ok()) << counts.status();
    EXPECT_THAT(*counts, ElementsAre(3, 1, 3, 3));
  });
}

/// Tell when they go.
class GoingCommunicator : public DelayingCommunicator {
 public:
  GoingCommunicator(std::vector<std::string>* gone, std::string name)
      : DelayingCommunicator(nullptr, {}), gone_(gone), name_(std::move(name)) {}
  ~GoingCommunicator() override { gone_->push_back(name_); }

 private:
  std::vector<std::string>* const gone_;
  const std::string name_;
};

class GoingRendezvous : public Rendezvous {
 public:
  explicit GoingRendezvous(std::vector<std::string>* gone) : gone_(gone) {}
  ~GoingRendezvous() override { gone_->push_back("rendezvous"); }
  int rank() const override { return 0; }
  int world_size() const override { return 1; }
  absl::StatusOr<std::vector<std::string>> AllGatherBytes(absl::string_view, absl::string_view,
                                                          absl::Duration) override {
    return std::vector<std::string>(1);
  }
  void Fail(const absl::Status&) override {}

 private:
  std::vector<std::string>* const gone_;
};

TEST(LevelsTest, CommunicatorsGoBeforeWhatTheyMeetOver) {
  std::vector<std::string> gone;
  const auto make = [&gone] {
    CommunicatorLevels levels;
    levels.rendezvous.push_back(std::make_unique<GoingRendezvous>(&gone));
    levels.host = std::make_unique<GoingCommunicator>(&gone, "host");
    levels.network = std::make_unique<GoingCommunicator>(&gone, "network");
    levels.host_ranks = 3;
    return levels;
  };
  {
    CommunicatorLevels levels = make();
    EXPECT_THAT(gone, testing::IsEmpty());
    levels = CommunicatorLevels();
    EXPECT_THAT(gone, ElementsAre("network", "host", "rendezvous"));
    EXPECT_EQ(levels.host_ranks, 0);
    levels = make();
    EXPECT_EQ(levels.host_ranks, 3);
    gone.clear();
  }
  EXPECT_THAT(gone, ElementsAre("network", "host", "rendezvous"));
}

TEST(LevelsTest, WithoutHostsThereAreNoPositions) { EXPECT_TRUE(HostMap().RanksByPosition().empty()); }

TEST(LevelsTest, AMissingRankIsNamed) {
  RunRankThreads(2, [](Rendezvous& rendezvous) {
    if (rendezvous.rank() == 1) return;
    EXPECT_EQ(MapHosts(rendezvous, "a", absl::Milliseconds(50)).status(),
              absl::DeadlineExceededError("MapHosts: host_id: rank 1 did not arrive within 50ms"));
  });
}

}  // namespace
}  // namespace shardstep
