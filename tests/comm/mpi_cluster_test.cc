// L5: the levels of jobs on several hosts, which here are names.

#include <atomic>

#include "shardstep/tests/comm/mpi_job.h"

namespace shardstep {
namespace {

using testing::ElementsAre;

class MpiClusterTest : public MpiJobTest {
 protected:
  /// `hosts`: one letter per rank.
  CommunicatorLevels CreateLevels(absl::string_view hosts, ClusterOptions options = {}) {
    options.host_id = std::string(1, hosts[static_cast<size_t>(rank())]);
    auto levels = CreateClusterCommunicators(rendezvous(), options);
    EXPECT_TRUE(levels.ok()) << levels.status();
    return levels.ok() ? *std::move(levels) : CommunicatorLevels();
  }

  static void Train(Communicator& communicator, int contributions) {
    const ContractLoad load{ContractBuckets(communicator.world_size()), 2, contributions};
    const absl::Status status = communicator.Allocate({.buckets = load.buckets, .contributions = contributions});
    ASSERT_TRUE(status.ok()) << status;
    TrainAndCompare(communicator, load, 3);
  }

  static absl::Status Reduce(Communicator& communicator) {
    SmallReduction reduction;
    return Await([&](Stream& s) { return communicator.AllReduceSmall(&reduction, s); });
  }
};

TEST_F(MpiClusterTest, OneHostIsSharedMemoryAlone) {
  const CommunicatorLevels levels = CreateLevels("aaaa");
  EXPECT_EQ(levels.network, nullptr);
  EXPECT_EQ(levels.map.host_count(), 0);
  EXPECT_EQ(levels.host->world_size(), world_size());
  EXPECT_FALSE(levels.host->traits().joins_hosts);
  Train(*levels.host, 0);
  Meet();
}

TEST_F(MpiClusterTest, OneRankPerHostIsMpiAlone) {
  const CommunicatorLevels levels = CreateLevels("abcd");
  EXPECT_EQ(levels.network, nullptr);
  EXPECT_EQ(levels.host_ranks, 1);
  EXPECT_EQ(levels.map.host_count(), 0);
  EXPECT_EQ(levels.host->rank(), rank());
  EXPECT_EQ(levels.host->world_size(), world_size());
  EXPECT_TRUE(levels.host->traits().joins_hosts);
  Train(*levels.host, 0);
  Meet();
}

TEST_F(MpiClusterTest, UnevenHostsAreMpiAlone) {
  const CommunicatorLevels levels = CreateLevels("aaab");
  EXPECT_EQ(levels.network, nullptr);
  EXPECT_EQ(levels.host_ranks, rank() < 3 ? 3 : 1);
  EXPECT_EQ(levels.host->world_size(), world_size());
  EXPECT_TRUE(levels.host->traits().joins_hosts);
  Train(*levels.host, 0);
  Meet();
}

TEST_F(MpiClusterTest, PrivateWeightsOnSeveralHostsAreMpiAlone) {
  const CommunicatorLevels levels = CreateLevels("aabb", {.private_weights = true});
  EXPECT_EQ(levels.network, nullptr);
  EXPECT_EQ(levels.host_ranks, 2);
  EXPECT_TRUE(levels.host->traits().joins_hosts);
  Train(*levels.host, 0);
  Meet();
}

TEST_F(MpiClusterTest, TwoRanksPerHostAreTwoLevelsHoweverPlaced) {
  for (const absl::string_view hosts : {"aabb", "abab", "abba", "baab"}) {
    const CommunicatorLevels levels = CreateLevels(hosts);
    ASSERT_NE(levels.network, nullptr) << hosts;
    const HostMap& map = levels.map;
    ASSERT_EQ(map.host_count(), 2);
    EXPECT_EQ(levels.host_ranks, 2);
    EXPECT_EQ(map.hosts[static_cast<size_t>(map.host)][static_cast<size_t>(map.local_rank)], rank());
    EXPECT_EQ(levels.host->rank(), map.local_rank);
    EXPECT_EQ(levels.host->world_size(), 2);
    EXPECT_FALSE(levels.host->traits().joins_hosts);
    EXPECT_EQ(levels.network->rank(), map.host);
    EXPECT_EQ(levels.network->world_size(), 2);
    EXPECT_TRUE(levels.network->traits().joins_hosts);
    Train(*levels.host, 0);
    Train(*levels.network, 2);
    Meet();
  }
}

// Weights that a whole host sees are filled by each of its rails.
TEST_F(MpiClusterTest, RailsFillTheWeightsOfTheirHost) {
  const CommunicatorLevels levels = CreateLevels("abba");
  const BucketExtent on_host{.shard_elements = 64};  // of two rails
  ASSERT_TRUE(levels.host->Allocate({.buckets = {&on_host, 1}}).ok());
  const BucketExtent on_rail{.shard_elements = 32, .weight_begin_byte = levels.host->rank() * 128};
  const absl::Status allocated =
      levels.network->Allocate({.buckets = {&on_rail, 1}, .weights = levels.host->weights(), .contributions = 1});
  ASSERT_TRUE(allocated.ok()) << allocated;
  auto* const own = static_cast<uint16_t*>(levels.network->Destinations(0)[0]);
  std::fill(own, own + 32, static_cast<uint16_t>(100 + rank()));
  EXPECT_TRUE(Await([&](Stream& s) { return levels.network->Publish(0, 0, s); }).ok());
  EXPECT_TRUE(Await([&](Stream& s) { return levels.network->AwaitPublished(0, 0, s); }).ok());
  EXPECT_TRUE(Await([&](Stream& s) { return levels.host->Publish(0, 0, s); }).ok());
  EXPECT_TRUE(Await([&](Stream& s) { return levels.host->AwaitPublished(0, 0, s); }).ok());
  const std::vector<int> owners = levels.map.RanksByPosition();
  EXPECT_THAT(owners, ElementsAre(0, 1, 3, 2));
  const auto* weights = levels.host->weights().as<uint16_t>();
  for (int i = 0; i < 128; ++i) {
    ASSERT_EQ(weights[i], 100 + owners[static_cast<size_t>(i / 32)]) << "element " << i;
  }
  Meet();
}

TEST_F(MpiClusterTest, AnAbortWithinOneHostEndsBothLevelsOfAllHosts) {
  const CommunicatorLevels levels = CreateLevels("aabb", {.wait_deadline = kLong});
  Meet();
  if (rank() == 3) {
    SleepMs(50);
    levels.host->Abort(absl::DataLossError("torn"));
  }
  for (Communicator* communicator : {levels.network.get(), levels.host.get()}) {
    absl::Status status;
    for (int i = 0; i < 100'000 && status.ok(); ++i) status = Reduce(*communicator);
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
    EXPECT_EQ(CauseOf(status), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("rank 3 aborted: torn"));
  }
  Meet();
}

TEST_F(MpiClusterTest, AnAbortBetweenHostsEndsBothLevelsOfAllHosts) {
  const CommunicatorLevels levels = CreateLevels("abab", {.wait_deadline = kLong});
  Meet();
  if (rank() == 0) {
    SleepMs(50);
    levels.network->Abort(absl::ResourceExhaustedError("out of coffee"));
  }
  for (Communicator* communicator : {levels.host.get(), levels.network.get()}) {
    absl::Status status;
    for (int i = 0; i < 100'000 && status.ok(); ++i) status = Reduce(*communicator);
    EXPECT_EQ(CauseOf(status), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("rank 0 aborted: out of coffee"));
  }
  Meet();
}

// Who waits within a host may wait for a rank that waits for another host.
TEST_F(MpiClusterTest, ARankThatIsAwayStopsTheDeadlinesOfOtherHostsToo) {
  const CommunicatorLevels levels = CreateLevels("aabb", {.wait_deadline = kShort});
  if (rank() == 3) {
    levels.host->SetAway(absl::Hours(1));
    levels.network->SetAway(absl::Hours(1));
  }
  Meet();
  SleepMs(50);
  if (rank() % 2 == 1) SleepMs(600);  // four deadlines
  absl::Status status = Reduce(*levels.host);
  EXPECT_TRUE(status.ok()) << status;
  Meet();
  if (rank() == 3) {
    levels.host->SetAway(absl::ZeroDuration());
    levels.network->SetAway(absl::ZeroDuration());
  }
  Meet();
  if (rank() % 2 == 0) {
    status = Reduce(*levels.host);
    EXPECT_EQ(status, absl::DeadlineExceededError(
                          absl::StrCat("AllReduceSmall number 1: rank ", rank() + 1, " did not arrive within 150ms")));
  }
  Meet();
}

TEST_F(MpiClusterTest, LevelsMayGoInAnyOrder) {
  CommunicatorLevels levels = CreateLevels("aabb");
  if (rank() % 2 == 0) {
    levels.host.reset();
  } else {
    levels.network.reset();
  }
  SleepMs(20);
  Meet();
}

TEST_F(MpiClusterTest, BadOptionsAreRefusedByName) {
  const auto levels =
      CreateClusterCommunicators(rendezvous(), {.max_message_bytes = 1, .host_id = rank() < 2 ? "first" : "second"});
  EXPECT_EQ(levels.status(), absl::InvalidArgumentError("rank 0: max_message_bytes = 1 is below 4096"));
}

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) { return shardstep::MpiJobMain(argc, argv); }
