// How a job gets its communicators over NCCL. Ranks are threads, their hosts are letters.
#include "shardstep/comm/nccl/nccl_levels.h"

#include <chrono>
#include <thread>

#include "shardstep/tests/comm/contract_trainer.h"
#include "shardstep/tests/nccl/nccl_machine.h"

namespace shardstep {
namespace {

using testing::StartsWith;
using Levels = NcclLevelsOptions::Levels;

constexpr absl::Duration kLong = absl::Minutes(1);

void Meet(Rendezvous& rendezvous) {
  const absl::Status status = rendezvous.AllGatherBytes("test", "", kLong).status();
  ASSERT_TRUE(status.ok()) << status;
}

absl::Status AwaitTheEnd(Communicator& communicator) {
  while (communicator.AsyncStatus().ok()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return communicator.AsyncStatus();
}

/// One rank of a test.
struct Rank {
  CommunicatorLevels& levels;
  NcclContractDevice& device;
  Rendezvous& job;

  /// Contributions of every rank, moved and summed as an optimizer would.
  void Train(Communicator& communicator, int contributions) {
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

  /// Ends when all ranks of `communicator` have come, or it has failed.
  absl::Status Reduce(Communicator& communicator) {
    auto reduction = device.memory().AllocateForBoth(sizeof(SmallReduction), "reduction");
    SHARDSTEP_RETURN_IF_ERROR(reduction.status());
    const auto stream = device.MakeStream();
    const absl::Status enqueued = communicator.AllReduceSmall(reduction->as<SmallReduction>(), *stream);
    const absl::Status finished = stream->Synchronize(stream->Record());
    return enqueued.ok() ? finished : enqueued;
  }
};

class NcclLevelsTest : public testing::Test {
 protected:
  using Create = std::function<absl::StatusOr<CommunicatorLevels>(Rendezvous& job, NcclLevelsOptions options)>;

  static NcclLevelsOptions Quick(Levels levels = Levels::kTwo, absl::Duration wait_deadline = kLong) {
    return {.levels = levels, .wait_deadline = wait_deadline, .heartbeat = absl::Milliseconds(5)};
  }

  /// `hosts`: one letter per rank. Levels are gone before ranks meet for the last time.
  void Run(absl::string_view hosts, const NcclLevelsOptions& options, const std::function<void(Rank&)>& body) {
    machine_ = std::make_unique<NcclMachine>(static_cast<int>(hosts.size()));
    machine_->Run([&](Rendezvous& job) {
      NcclContractDevice device(*machine_, job.rank());
      auto levels = CreateLevels(hosts, options, job);
      ASSERT_TRUE(levels.ok()) << levels.status();
      Rank rank{*levels, device, job};
      body(rank);
      Meet(job);
    });
    machine_->ExpectClean();
  }

  /// What all ranks are told, the same; rank r asks with options_of(r).
  absl::Status Refusal(absl::string_view hosts, const std::function<NcclLevelsOptions(int rank)>& options_of) {
    machine_ = std::make_unique<NcclMachine>(static_cast<int>(hosts.size()));
    std::vector<absl::Status> statuses(hosts.size());
    machine_->Run([&](Rendezvous& job) {
      statuses[static_cast<size_t>(job.rank())] = CreateLevels(hosts, options_of(job.rank()), job).status();
      Meet(job);
    });
    machine_->ExpectClean();
    for (const absl::Status& status : statuses) EXPECT_EQ(status, statuses[0]);
    return statuses[0];
  }

  absl::StatusOr<CommunicatorLevels> CreateLevels(absl::string_view hosts, NcclLevelsOptions options, Rendezvous& job) {
    options.host_id = std::string(1, hosts[static_cast<size_t>(job.rank())]);
    options.host_address = "127.0.0.1";  // of all these hosts
    return CreateNcclLevels(machine_->nccl, machine_->device(job.rank()), machine_->memory(job.rank()), job, options);
  }

  std::unique_ptr<NcclMachine> machine_;
};

// ---- Maps -----------------------------------------------------------------------------------------------------------

TEST_F(NcclLevelsTest, OneLevelIsAllRanksWhereverTheyAre) {
  Run("abab", Quick(Levels::kOne), [](Rank& rank) {
    EXPECT_EQ(rank.levels.network, nullptr);
    EXPECT_EQ(rank.levels.map.host_count(), 0);
    EXPECT_EQ(rank.levels.host_ranks, 2);
    EXPECT_EQ(rank.levels.host->rank(), rank.job.rank());
    EXPECT_EQ(rank.levels.host->world_size(), 4);
    rank.Train(*rank.levels.host, 0);
  });
}

TEST_F(NcclLevelsTest, OneLevelNeedsNoRails) {
  Run("aab", Quick(Levels::kOne), [](Rank& rank) {
    EXPECT_EQ(rank.levels.host_ranks, rank.job.rank() < 2 ? 2 : 1);
    EXPECT_EQ(rank.levels.host->world_size(), 3);
  });
}

TEST_F(NcclLevelsTest, TwoLevelsAreHostsAndRailsHoweverPlaced) {
  for (const absl::string_view hosts : {"aabb", "abab", "abba"}) {
    Run(hosts, Quick(), [&](Rank& rank) {
      ASSERT_NE(rank.levels.network, nullptr) << hosts;
      const HostMap& map = rank.levels.map;
      ASSERT_EQ(map.host_count(), 2);
      EXPECT_EQ(rank.levels.host_ranks, 2);
      EXPECT_EQ(map.hosts[static_cast<size_t>(map.host)][static_cast<size_t>(map.local_rank)], rank.job.rank());
      EXPECT_EQ(rank.levels.host->rank(), map.local_rank);
      EXPECT_EQ(rank.levels.host->world_size(), 2);
      EXPECT_EQ(rank.levels.network->rank(), map.host);
      EXPECT_EQ(rank.levels.network->world_size(), 2);
      EXPECT_TRUE(rank.levels.network->traits().joins_hosts);
      rank.Train(*rank.levels.host, 0);
      rank.Train(*rank.levels.network, 2);
    });
  }
}

TEST_F(NcclLevelsTest, OneHostOrOneRankPerHostIsOneLevelWhateverWasAsked) {
  for (const auto& [hosts, host_ranks] : {std::pair("aaa", 3), std::pair("abc", 1), std::pair("a", 1)}) {
    Run(hosts, Quick(), [&, host_ranks = host_ranks](Rank& rank) {
      EXPECT_EQ(rank.levels.network, nullptr);
      EXPECT_EQ(rank.levels.map.host_count(), 0);
      EXPECT_EQ(rank.levels.host_ranks, host_ranks);
      EXPECT_EQ(rank.levels.host->world_size(), rank.job.world_size());
    });
  }
}

// ---- Refusals -------------------------------------------------------------------------------------------------------

TEST_F(NcclLevelsTest, TwoLevelsOfUnequalHostsAreRefused) {
  EXPECT_EQ(Refusal("aab", [](int) { return Quick(); }),
            absl::FailedPreconditionError("CreateNcclLevels: levels = two: needs equally many ranks on every host; the "
                                          "host of rank 2 has 1, that of rank 0 has 2"));
}

TEST_F(NcclLevelsTest, OptionsAreRefusedByName) {
  EXPECT_EQ(Refusal("aabb",
                    [](int rank) {
                      NcclLevelsOptions options = Quick();
                      if (rank == 2) options.exchange = NcclExchange::kReduceScatter;
                      return options;
                    }),
            absl::InvalidArgumentError(
                "rank 2: levels = two: needs exchange = exact, as nccl_reduce_scatter cannot join hosts"));
  EXPECT_EQ(Refusal("ab",
                    [](int rank) {
                      NcclLevelsOptions options = Quick();
                      if (rank == 1) options.setup_deadline = -absl::Seconds(1);
                      return options;
                    }),
            absl::InvalidArgumentError("rank 1: setup_deadline = -1s is not positive"));
  EXPECT_EQ(Refusal("aabb", [](int rank) { return Quick(rank == 3 ? Levels::kOne : Levels::kTwo); }),
            absl::FailedPreconditionError("CreateNcclLevels: rank 0 has levels = two; rank 3 has levels = one"));
  EXPECT_EQ(Refusal("ab",
                    [](int rank) {
                      NcclLevelsOptions options = Quick(Levels::kOne);
                      if (rank == 1) options.landing_buckets = 1;
                      return options;
                    }),
            absl::InvalidArgumentError("rank 0: rank 1: landing_buckets = 1 is below 2"));
}

// Hosts where all is well do not go on alone.
TEST_F(NcclLevelsTest, WhatIsWrongWithinOneHostEndsTheCreationOfAll) {
  EXPECT_EQ(Refusal("aabb",
                    [](int rank) {
                      NcclLevelsOptions options = Quick();
                      if (rank == 3) options.landing_buckets = 4;
                      return options;
                    })
                .code(),
            absl::StatusCode::kFailedPrecondition);
}

// ---- Joined levels --------------------------------------------------------------------------------------------------

TEST_F(NcclLevelsTest, AnAbortWithinOneHostEndsBothLevelsOfAllRanks) {
  Run("aabb", Quick(), [](Rank& rank) {
    if (rank.job.rank() == 3) rank.levels.host->Abort(absl::DataLossError("torn"));
    const absl::Status expected = AbortedBy(3, absl::StatusCode::kDataLoss, "aborted: torn");
    EXPECT_EQ(AwaitTheEnd(*rank.levels.network), expected);
    EXPECT_EQ(AwaitTheEnd(*rank.levels.host), expected);
  });
}

TEST_F(NcclLevelsTest, AnAbortBetweenHostsEndsBothLevelsOfAllRanks) {
  Run("abab", Quick(), [](Rank& rank) {
    if (rank.job.rank() == 0) rank.levels.network->Abort(absl::ResourceExhaustedError("out of coffee"));
    const absl::Status expected = AbortedBy(0, absl::StatusCode::kResourceExhausted, "aborted: out of coffee");
    EXPECT_EQ(AwaitTheEnd(*rank.levels.host), expected);
    EXPECT_EQ(AwaitTheEnd(*rank.levels.network), expected);
  });
}

// The call that it happens to says what NCCL said; all other words name its rank.
TEST_F(NcclLevelsTest, AnErrorOfOneRankIsTheOneOfThatRankInBothLevels) {
  Run("aabb", Quick(), [this](Rank& rank) {
    std::string expected = "rank 1 failed: ";
    if (rank.job.rank() == 1) {
      machine_->nccl.FailCall("AllReduceSum", 1, FakeNccl::kUnhandledCudaError);
      const absl::Status mine = rank.Reduce(*rank.levels.host);
      EXPECT_EQ(rank.levels.host->AsyncStatus(), mine);
      absl::StrAppend(&expected, mine.message());
    } else {
      EXPECT_THAT(std::string(AwaitTheEnd(*rank.levels.host).message()), StartsWith(expected));
    }
    EXPECT_THAT(std::string(AwaitTheEnd(*rank.levels.network).message()), StartsWith(expected));
  });
}

// Who waits in one level may wait for a rank that waits in the other, for the one that is away.
TEST_F(NcclLevelsTest, WhileARankIsAwayNoDeadlineRunsInAnyLevel) {
  Run("aabb", Quick(Levels::kTwo, absl::Milliseconds(500)), [](Rank& rank) {
    const int r = rank.job.rank();
    const auto set_away = [&](absl::Duration duration) {
      rank.levels.host->SetAway(duration);
      rank.levels.network->SetAway(duration);
    };
    if (r == 3) set_away(absl::Hours(1));
    // What time is needed for is news to come, and deadlines to pass.
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    Meet(rank.job);
    const bool late_in_host = r == 1;
    if (late_in_host) std::this_thread::sleep_for(std::chrono::milliseconds(1200));
    if (r < 2) {
      const absl::Status status = rank.Reduce(*rank.levels.host);
      EXPECT_TRUE(status.ok()) << "within the other host: " << status;
    }
    Meet(rank.job);
    const bool late_in_network = r == 2;
    if (late_in_network) std::this_thread::sleep_for(std::chrono::milliseconds(1200));
    if (r % 2 == 0) {
      const absl::Status status = rank.Reduce(*rank.levels.network);
      EXPECT_TRUE(status.ok()) << "in the other rail: " << status;
    }
    Meet(rank.job);
    if (r == 3) set_away(absl::ZeroDuration());
    if (r == 0) {
      EXPECT_EQ(rank.Reduce(*rank.levels.host),
                absl::DeadlineExceededError("AllReduceSmall number 1: rank 1 did not arrive within 500ms"));
    }
    EXPECT_FALSE(AwaitTheEnd(*rank.levels.host).ok());
  });
}

TEST_F(NcclLevelsTest, LevelsMayGoInAnyOrder) {
  Run("aabb", Quick(), [](Rank& rank) {
    if (rank.job.rank() % 2 == 0) {
      rank.levels.host.reset();
    } else {
      rank.levels.network.reset();
    }
    Meet(rank.job);
  });
}

}  // namespace
}  // namespace shardstep
