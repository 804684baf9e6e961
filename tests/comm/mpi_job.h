#ifndef SHARDSTEP_TESTS_COMM_MPI_JOB_H_
#define SHARDSTEP_TESTS_COMM_MPI_JOB_H_

#include <chrono>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shardstep/comm/host_stream.h"
#include "shardstep/comm/mpi/mpi_communicator.h"
#include "shardstep/tests/comm/contract_trainer.h"
#include "shardstep/tests/comm/mpi_main.h"

namespace shardstep {

constexpr absl::Duration kLong = absl::Minutes(1);
constexpr absl::Duration kShort = absl::Milliseconds(150);

/// The rendezvous of all ranks that mpirun has started: set by main, before any test.
inline MpiRendezvous*& JobRendezvous() {
  static MpiRendezvous* rendezvous = nullptr;
  return rendezvous;
}

inline int MpiJobMain(int argc, char** argv) {
  return MpiTestMain(argc, argv, [](MpiRendezvous& owner) { JobRendezvous() = &owner; });
}

inline std::vector<int> RanksUpTo(int count) {
  std::vector<int> ranks(static_cast<size_t>(count));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

inline void SleepMs(int milliseconds) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); }

/// The sticky error of one operation on a stream of its own.
inline absl::Status Await(const std::function<absl::Status(Stream&)>& enqueue) {
  ThreadStream stream;
  const absl::Status enqueued = enqueue(stream);
  return enqueued.ok() ? stream.Synchronize(stream.Record()) : enqueued;
}

/// Both of them, one after the other on a stream of their own: the first error. For a rank that may hear of a failure
/// before it begins.
inline absl::Status AwaitBoth(const std::function<absl::Status(Stream&)>& first,
                              const std::function<absl::Status(Stream&)>& second) {
  const absl::Status status = Await(first);
  return status.ok() ? Await(second) : status;
}

/// Trains and compares with the serial loop. `communicator` has been allocated for `load`.
inline void TrainAndCompare(Communicator& communicator, const ContractLoad& load, int64_t steps) {
  ContractTrainer trainer(communicator, load);
  for (int64_t step = 0; step < steps; ++step) {
    const absl::Status status = trainer.Step(step);
    ASSERT_TRUE(status.ok()) << "step " << step << ": " << status;
    const auto expected = SerialWeights(load, communicator.world_size(), load.micro_steps * (step + 1), 0);
    ASSERT_EQ(FirstWrongByte(communicator, expected), -1) << "step " << step;
  }
}

class MpiJobTest : public testing::Test {
 protected:
  MpiRendezvous& rendezvous() { return *JobRendezvous(); }
  int rank() { return rendezvous().rank(); }
  int world_size() { return rendezvous().world_size(); }

  void Meet() {
    const absl::Status status = rendezvous().AllGatherBytes("test", "", kLong).status();
    ASSERT_TRUE(status.ok()) << status;
  }

  /// Of all ranks.
  std::unique_ptr<Communicator> Create(const MpiCommunicatorOptions& options) {
    auto communicator = CreateMpiCommunicator(rendezvous(), RanksUpTo(world_size()), options);
    EXPECT_TRUE(communicator.ok()) << communicator.status();
    return communicator.ok() ? *std::move(communicator) : nullptr;
  }
};

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_COMM_MPI_JOB_H_
