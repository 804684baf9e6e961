// Levels of a job on CPUs, staged for GPUs. Ranks are threads, networks are those of tests.
#include "shardstep/comm/staged/staged_levels.h"

#include "shardstep/comm/group_rendezvous.h"
#include "shardstep/tests/comm/contract_trainer.h"
#include "shardstep/tests/comm/staged_machine.h"
#include "shardstep/tests/cuda/cuda_contract_device.h"

namespace shardstep {
namespace {

using testing::HasSubstr;

constexpr absl::Duration kLong = absl::Minutes(1);

absl::StatusOr<CommunicatorLevels> InnerLevels(absl::string_view hosts, Rendezvous& job) {
  SHARDSTEP_ASSIGN_OR_RETURN(HostMap map, MapHosts(job, hosts.substr(static_cast<size_t>(job.rank()), 1), kLong));
  if (map.host_count() == 1) {
    SHARDSTEP_ASSIGN_OR_RETURN(auto all, CreateInprocInner(job, kLong));
    return CommunicatorLevels(std::move(all));
  }
  const std::vector<int>& local = map.hosts[static_cast<size_t>(map.host)];
  CommunicatorLevels levels;
  levels.rendezvous.push_back(std::make_unique<GroupRendezvous>(job, local));
  levels.rendezvous.push_back(std::make_unique<GroupRendezvous>(job, map.Rail()));
  SHARDSTEP_ASSIGN_OR_RETURN(
      levels.host,
      CreateInprocCommunicator(*levels.rendezvous[0], {.wait_deadline = kLong, .host_id = "x", .rank_names = local}));
  SHARDSTEP_ASSIGN_OR_RETURN(
      levels.network,
      CreateLandingCommunicator(*levels.rendezvous[1], {.wait_deadline = kLong, .rank_names = map.Rail()}));
  levels.host_ranks = map.ranks_per_host();
  levels.map = std::move(map);
  return levels;
}

/// Every rank of `hosts`, one letter per rank, with levels that have been staged.
void RunStaged(absl::string_view hosts,
               const std::function<void(Rendezvous&, CommunicatorLevels&, ContractDevice&)>& body) {
  StagedMachine machine(static_cast<int>(hosts.size()), CreateInprocInner);
  machine.Run([&](Rendezvous& job) {
    const int rank = job.rank();
    CudaContractDevice device(machine.cuda, machine.device(rank), machine.memory(rank));
    auto inner = InnerLevels(hosts, job);
    ASSERT_TRUE(inner.ok()) << inner.status();
    auto levels = StageLevels({&machine.cuda, machine.device(rank)}, machine.memory(rank), job, *std::move(inner), {});
    ASSERT_TRUE(levels.ok()) << levels.status();
    body(job, *levels, device);
    ASSERT_TRUE(job.AllGatherBytes("test", "", kLong).ok());
  });
  machine.ExpectClean();
}

void Train(Communicator& communicator, int contributions, ContractDevice& device) {
  const ContractLoad load{ContractBuckets(communicator.world_size()), 2, contributions};
  const absl::Status status = communicator.Allocate({.buckets = load.buckets, .contributions = contributions});
  ASSERT_TRUE(status.ok()) << status;
  ContractTrainer trainer(communicator, load, device);
  for (int64_t step = 0; step < 2; ++step) {
    const absl::Status stepped = trainer.Step(step);
    ASSERT_TRUE(stepped.ok()) << stepped;
    const auto expected = SerialWeights(load, communicator.world_size(), load.micro_steps * (step + 1), 0);
    ASSERT_EQ(FirstWrongByte(communicator, expected), -1) << "step " << step;
  }
}

TEST(StagedLevelsTest, OneLevelStaysOne) {
  RunStaged("aaa", [](Rendezvous& job, CommunicatorLevels& levels, ContractDevice& device) {
    EXPECT_EQ(levels.network, nullptr);
    EXPECT_EQ(levels.host->rank(), job.rank());
    EXPECT_EQ(levels.host->world_size(), 3);
    EXPECT_FALSE(levels.host->traits().slices_persist);
    Train(*levels.host, 0, device);
  });
}

TEST(StagedLevelsTest, TwoLevelsAreBothStagedWithTheirMap) {
  RunStaged("abba", [](Rendezvous& job, CommunicatorLevels& levels, ContractDevice& device) {
    ASSERT_NE(levels.network, nullptr);
    EXPECT_EQ(levels.host_ranks, 2);
    EXPECT_EQ(levels.map.hosts, (std::vector<std::vector<int>>{{0, 3}, {1, 2}}));
    EXPECT_EQ(levels.host->rank(), job.rank() / 2);
    EXPECT_EQ(levels.network->rank(), job.rank() % 3 == 0 ? 0 : 1);
    EXPECT_FALSE(levels.host->traits().slices_persist);
    EXPECT_FALSE(levels.host->traits().joins_hosts);
    EXPECT_TRUE(levels.network->traits().joins_hosts);
    Train(*levels.host, 0, device);
    Train(*levels.network, 2, device);
  });
}

/// What all ranks of two hosts are told, the same, when each has changed its inner levels.
absl::Status Refusal(const std::function<void(int rank, CommunicatorLevels*)>& change, const StagedOptions& options) {
  StagedMachine machine(4, CreateInprocInner);
  std::vector<absl::Status> statuses(4);
  machine.Run([&](Rendezvous& job) {
    const int rank = job.rank();
    auto inner = InnerLevels("aabb", job);
    ASSERT_TRUE(inner.ok()) << inner.status();
    change(rank, &*inner);
    statuses[static_cast<size_t>(rank)] =
        StageLevels({&machine.cuda, machine.device(rank)}, machine.memory(rank), job, *std::move(inner), options)
            .status();
    ASSERT_TRUE(job.AllGatherBytes("test", "", kLong).ok());
  });
  machine.ExpectClean();
  for (const absl::Status& status : statuses) EXPECT_EQ(status, statuses[0]);
  return statuses[0];
}

TEST(StagedLevelsTest, WhatDoesNotFitTheJobIsRefusedByName) {
  EXPECT_EQ(Refusal(
                [](int rank, CommunicatorLevels* inner) {
                  if (rank == 2) inner->map.host = 0;
                },
                {}),
            absl::InvalidArgumentError("rank 2: inner: rank 0 of host 0 of 2 with 2 ranks each is not rank 2 of 4"));
  EXPECT_EQ(Refusal(
                [](int rank, CommunicatorLevels* inner) {
                  if (rank == 1) inner->host.reset();
                },
                {}),
            absl::InvalidArgumentError("rank 1: inner: has no communicator"));
  EXPECT_EQ(Refusal(
                [](int rank, CommunicatorLevels* inner) {
                  if (rank == 3) inner->network.reset();
                },
                {})
                .code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Refusal([](int, CommunicatorLevels*) {}, {.landing_buckets = 0}),
            absl::InvalidArgumentError("rank 0: landing_buckets = 0 is not positive"));
}

}  // namespace
}  // namespace shardstep
