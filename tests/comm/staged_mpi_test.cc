// The levels of a job that mpirun started, staged: every process has a fake GPU of its own. Hosts are names.

#include "shardstep/comm/cuda/cuda_memory.h"
#include "shardstep/comm/staged/staged_levels.h"
#include "shardstep/tests/comm/mpi_job.h"
#include "shardstep/tests/cuda/cuda_contract_device.h"

namespace shardstep {
namespace {

class StagedMpiTest : public MpiJobTest {
 protected:
  ~StagedMpiTest() override {
    memory_.reset();
    EXPECT_EQ(cuda_.leaks(), "");
    EXPECT_THAT(cuda_.misuses(), testing::IsEmpty());
  }

  /// `hosts`: a letter per rank, of the first ranks of the job.
  absl::StatusOr<CommunicatorLevels> CreateLevels(absl::string_view hosts) {
    ClusterOptions options{.wait_deadline = kLong};
    options.host_id = std::string(1, hosts[static_cast<size_t>(rank())]);
    SHARDSTEP_ASSIGN_OR_RETURN(CommunicatorLevels inner, CreateClusterCommunicators(rendezvous(), options));
    return StageLevels({&cuda_, 0}, *memory_, rendezvous(), std::move(inner), {});
  }

  void Train(Communicator& communicator, int contributions) {
    CudaContractDevice device(cuda_, 0, *memory_);
    const ContractLoad load{ContractBuckets(communicator.world_size()), 2, contributions};
    const absl::Status status = communicator.Allocate({.buckets = load.buckets, .contributions = contributions});
    ASSERT_TRUE(status.ok()) << status;
    ContractTrainer trainer(communicator, load, device);
    for (int64_t step = 0; step < 3; ++step) {
      const absl::Status stepped = trainer.Step(step);
      ASSERT_TRUE(stepped.ok()) << "step " << step << ": " << stepped;
      const auto expected = SerialWeights(load, communicator.world_size(), load.micro_steps * (step + 1), 0);
      ASSERT_EQ(FirstWrongByte(communicator, expected), -1) << "step " << step;
    }
  }

  static std::unique_ptr<Memory> MakeMemory(FakeCuda& cuda) {
    auto memory = CreateCudaMemory({&cuda, 0});
    EXPECT_TRUE(memory.ok()) << memory.status();
    return memory.ok() ? *std::move(memory) : nullptr;
  }

  FakeCuda cuda_;
  std::unique_ptr<Memory> memory_ = MakeMemory(cuda_);
};

TEST_F(StagedMpiTest, OneHostIsSharedMemoryAndOneRankPerHostIsMpi) {
  for (const absl::string_view hosts : {"aaaa", "abcd"}) {
    auto levels = CreateLevels(hosts);
    ASSERT_TRUE(levels.ok()) << levels.status();
    EXPECT_EQ(levels->network, nullptr);
    EXPECT_EQ(levels->host->rank(), rank());
    EXPECT_EQ(levels->host->world_size(), world_size());
    EXPECT_EQ(levels->host->traits().joins_hosts, hosts == "abcd");
    Train(*levels->host, 0);
    Meet();
  }
}

// With two ranks these are one level, over MPI.
TEST_F(StagedMpiTest, TwoRanksPerHostAreTwoLevelsHoweverPlaced) {
  for (const absl::string_view hosts : {"abab", "abba"}) {
    auto levels = CreateLevels(hosts);
    ASSERT_TRUE(levels.ok()) << levels.status();
    ASSERT_EQ(levels->network != nullptr, world_size() == 4);
    Train(*levels->host, 0);
    if (levels->network != nullptr) {
      EXPECT_EQ(levels->host->world_size(), 2);
      EXPECT_EQ(levels->network->rank(), levels->map.host);
      EXPECT_EQ(levels->host_ranks, 2);
      Train(*levels->network, 2);
    }
    Meet();
  }
}

TEST_F(StagedMpiTest, AnAbortOfOneLevelEndsAllOfAllRanks) {
  auto levels = CreateLevels("abab");
  ASSERT_TRUE(levels.ok()) << levels.status();
  Meet();
  if (rank() == 1) levels->host->Abort(absl::DataLossError("torn"));
  for (Communicator* const level : {levels->network.get(), levels->host.get()}) {
    while (level != nullptr && level->AsyncStatus().ok()) SleepMs(1);
    if (level == nullptr) continue;
    EXPECT_EQ(CauseOf(level->AsyncStatus()), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(level->AsyncStatus().message()), testing::HasSubstr("rank 1 aborted: torn"));
  }
  Meet();
}

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) { return shardstep::MpiJobMain(argc, argv); }
