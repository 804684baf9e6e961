#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/tests/comm/communicator_contract.h"
#include "shardstep/tests/comm/rank_threads.h"

namespace shardstep {
namespace {

ContractBackend ShmThreads(int world_size) {
  return {.name = absl::StrCat("Ranks", world_size),
          .run = [=](const std::function<void(Rendezvous&)>& body) { RunRankThreads(world_size, body); },
          .create =
              [](Rendezvous& rendezvous, absl::Duration wait_deadline) {
                return CreateShmCommunicator(rendezvous, {.wait_deadline = wait_deadline});
              }};
}

INSTANTIATE_TEST_SUITE_P(ShmThreads, CommunicatorContract, testing::Values(ShmThreads(1), ShmThreads(2), ShmThreads(4)),
                         BackendName);

TEST(ShmCommunicatorTest, RanksThatDisagreeOnTheHostAreRefused) {
  RunRankThreads(3, [](Rendezvous& rendezvous) {
    const auto communicator = CreateShmCommunicator(rendezvous, {.host_id = rendezvous.rank() == 2 ? "green" : "blue"});
    EXPECT_EQ(communicator.status(),
              absl::FailedPreconditionError("Create: host_id differs: rank 0 has blue, rank 2 has green"));
  });
}

TEST(ShmCommunicatorTest, ABadDeadlineIsRefusedOnEveryRank) {
  RunRankThreads(2, [](Rendezvous& rendezvous) {
    SharedMemoryOptions options;
    if (rendezvous.rank() == 1) options.wait_deadline = absl::ZeroDuration();
    EXPECT_EQ(CreateShmCommunicator(rendezvous, options).status(),
              absl::InvalidArgumentError("rank 1: wait_deadline = 0 is not positive"));
  });
}

// The weights exist once: what the owner writes is at once what a peer's mapping shows.
TEST(ShmCommunicatorTest, DestinationsLieInTheOneCopyOfTheWeights) {
  RunRankThreads(2, [](Rendezvous& rendezvous) {
    auto communicator = CreateShmCommunicator(rendezvous, {});
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    ASSERT_TRUE((*communicator)->Allocate({{0, 64}}).ok());
    ASSERT_EQ((*communicator)->Destinations(0).size(), 1u);
    (*communicator)->Destinations(0)[0]->bits = static_cast<uint16_t>(7 + rendezvous.rank());
    ASSERT_TRUE(rendezvous.AllGatherBytes("written", "", absl::Minutes(1)).ok());
    EXPECT_EQ((*communicator)->weights().as<Bf16>()[0].bits, 7);
    EXPECT_EQ((*communicator)->weights().as<Bf16>()[64].bits, 8);
    ASSERT_TRUE(rendezvous.AllGatherBytes("read", "", absl::Minutes(1)).ok());
  });
}

}  // namespace
}  // namespace shardstep
