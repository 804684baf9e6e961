// L5: rendezvous over communicators of the caller's own, and several communicators in one job.

#include "shardstep/comm/mpi/mpi_rendezvous_of_comm.h"

#include <thread>

#include "shardstep/tests/comm/mpi_job.h"

namespace shardstep {
namespace {

/// A part of MPI_COMM_WORLD.
class Split {
 public:
  Split(int color, int key) { MPI_Comm_split(MPI_COMM_WORLD, color, key, &comm_); }
  ~Split() { MPI_Comm_free(&comm_); }
  Split(const Split&) = delete;
  Split& operator=(const Split&) = delete;
  MPI_Comm comm() const { return comm_; }

 private:
  MPI_Comm comm_ = MPI_COMM_NULL;
};

std::vector<std::string> Names(Rendezvous& rendezvous, const std::string& mine) {
  const auto names = rendezvous.AllGatherBytes("names", mine, kLong);
  EXPECT_TRUE(names.ok()) << names.status();
  return names.ok() ? *names : std::vector<std::string>();
}

class MpiRendezvousOfCommTest : public MpiJobTest {
 protected:
  static void Train(MpiRendezvous& rendezvous, const std::vector<int>& members, int64_t steps) {
    auto communicator = CreateMpiCommunicator(rendezvous, members, {.wait_deadline = kLong});
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    const ContractLoad load{ContractBuckets((*communicator)->world_size()), 2, 0};
    const absl::Status status = (*communicator)->Allocate({.buckets = load.buckets});
    ASSERT_TRUE(status.ok()) << status;
    TrainAndCompare(**communicator, load, steps);
    EXPECT_TRUE(rendezvous.AllGatherBytes("trained", "", kLong).ok());
  }
};

TEST_F(MpiRendezvousOfCommTest, RanksInReverseOrder) {
  const Split reversed(0, -rank());
  const auto rendezvous = CreateMpiRendezvous(reversed.comm(), kLong);
  ASSERT_TRUE(rendezvous.ok()) << rendezvous.status();
  EXPECT_EQ((*rendezvous)->rank(), world_size() - 1 - rank());
  const std::vector<std::string> names = Names(**rendezvous, absl::StrCat(rank()));
  ASSERT_EQ(names.size(), static_cast<size_t>(world_size()));
  for (int r = 0; r < world_size(); ++r) EXPECT_EQ(names[static_cast<size_t>(r)], absl::StrCat(world_size() - 1 - r));
  Train(**rendezvous, RanksUpTo(world_size()), 3);
}

TEST_F(MpiRendezvousOfCommTest, TwoHalvesWorkAtTheSameTime) {
  const int half = rank() % 2;
  const int size = (world_size() + 1 - half) / 2;
  const Split split(half, 0);
  const auto rendezvous = CreateMpiRendezvous(split.comm(), kLong);
  ASSERT_TRUE(rendezvous.ok()) << rendezvous.status();
  EXPECT_EQ((*rendezvous)->rank(), rank() / 2);
  EXPECT_EQ((*rendezvous)->world_size(), size);
  EXPECT_EQ(Names(**rendezvous, absl::StrCat(half)),
            std::vector<std::string>(static_cast<size_t>(size), absl::StrCat(half)));
  Train(**rendezvous, RanksUpTo(size), 3 + 2 * half);
  Meet();
}

TEST_F(MpiRendezvousOfCommTest, AnAbortInOneHalfLeavesTheOtherAlone) {
  const Split split(rank() % 2, 0);
  const auto rendezvous = CreateMpiRendezvous(split.comm(), kLong);
  ASSERT_TRUE(rendezvous.ok()) << rendezvous.status();
  const auto communicator = CreateMpiCommunicator(**rendezvous, RanksUpTo((*rendezvous)->world_size()), {});
  ASSERT_TRUE(communicator.ok()) << communicator.status();
  if (rank() == 0) (*communicator)->Abort(absl::InternalError("of the even ones"));
  if (rank() % 2 == 0) {
    while ((*communicator)->AsyncStatus().ok()) SleepMs(1);
  }
  Meet();
  EXPECT_EQ((*communicator)->AsyncStatus().ok(), rank() % 2 == 1);
  Meet();
}

TEST_F(MpiRendezvousOfCommTest, TheCallersErrorHandlerStays) {
  const Split split(0, 0);
  MPI_Comm_set_errhandler(split.comm(), MPI_ERRORS_ARE_FATAL);
  EXPECT_TRUE(CreateMpiRendezvous(split.comm(), kLong).ok());
  MPI_Errhandler handler = MPI_ERRHANDLER_NULL;
  MPI_Comm_get_errhandler(split.comm(), &handler);
  EXPECT_EQ(handler, MPI_ERRORS_ARE_FATAL);
  MPI_Errhandler_free(&handler);
}

// Rails, in the order of their lists, which need not be ascending; each is one communicator of the same rendezvous.
TEST_F(MpiRendezvousOfCommTest, RailsOfOneRendezvousTrainAtTheSameTime) {
  std::vector<int> members;
  for (int r = world_size() - 1; r >= 0; --r) {
    if (r % 2 == rank() % 2) members.push_back(r);
  }
  Train(rendezvous(), members, 3 + rank() % 2);
}

TEST_F(MpiRendezvousOfCommTest, TwoCommunicatorsTrainAtTheSameTimeOnTwoThreads) {
  std::vector<std::unique_ptr<Communicator>> communicators;
  const ContractLoad load{ContractBuckets(world_size()), 2, 0};
  for (int i = 0; i < 2; ++i) {
    communicators.push_back(Create({.wait_deadline = kLong}));
    ASSERT_TRUE(communicators.back()->Allocate({.buckets = load.buckets}).ok());
  }
  std::vector<std::thread> threads;
  threads.reserve(2);
  for (const auto& communicator : communicators) {
    threads.emplace_back([&] { TrainAndCompare(*communicator, load, 4); });
  }
  for (std::thread& thread : threads) thread.join();
  Meet();
  communicators[0]->Abort(absl::InternalError("only the first"));
  while (communicators[0]->AsyncStatus().ok()) SleepMs(1);
  Meet();
  EXPECT_TRUE(communicators[1]->AsyncStatus().ok());
  Meet();
}

TEST_F(MpiRendezvousOfCommTest, DeadlinesOfARailNameRanksOfTheJob) {
  std::vector<int> members;
  for (int r = rank() % 2; r < world_size(); r += 2) members.push_back(r);
  auto communicator = CreateMpiCommunicator(rendezvous(), members, {.wait_deadline = kShort});
  ASSERT_TRUE(communicator.ok()) << communicator.status();
  SmallReduction reduction;
  if (rank() < 2 && members.size() > 1) {
    EXPECT_EQ(Await([&](Stream& s) { return (*communicator)->AllReduceSmall(&reduction, s); }),
              absl::DeadlineExceededError(
                  absl::StrCat("AllReduceSmall number 0: rank ", rank() + 2, " did not arrive within 150ms")));
  }
  Meet();
}

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) { return shardstep::MpiJobMain(argc, argv); }
