#include <sys/mman.h>

#include "shardstep/comm/bf16.h"
#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/tests/comm/communicator_contract.h"
#include "shardstep/tests/comm/rank_threads.h"

namespace shardstep {
namespace {

constexpr BucketExtent kOneBucket[] = {{.shard_elements = 64}};

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
    ASSERT_TRUE((*communicator)->Allocate({.buckets = kOneBucket}).ok());
    ASSERT_EQ((*communicator)->Destinations(0).size(), 1u);
    StoreBits((*communicator)->Destinations(0)[0], DType::kBf16, 0, static_cast<uint32_t>(7 + rendezvous.rank()));
    ASSERT_TRUE(rendezvous.AllGatherBytes("written", "", absl::Minutes(1)).ok());
    EXPECT_EQ((*communicator)->weights().as<Bf16>()[0].bits, 7);
    EXPECT_EQ((*communicator)->weights().as<Bf16>()[64].bits, 8);
    ASSERT_TRUE(rendezvous.AllGatherBytes("read", "", absl::Minutes(1)).ok());
  });
}

// The own copy first, then those of the others in ascending order.
TEST(ShmCommunicatorTest, DestinationsOfPrivateWeightsAreTheCopiesOfAllRanks) {
  RunRankThreads(3, [](Rendezvous& rendezvous) {
    auto communicator = CreateShmCommunicator(rendezvous, {});
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    ASSERT_TRUE((*communicator)->Allocate({.buckets = kOneBucket, .private_weights = true}).ok());
    const absl::Span<void* const> destinations = (*communicator)->Destinations(0);
    ASSERT_EQ(destinations.size(), 3u);
    for (size_t i = 0; i < 3; ++i) {
      StoreBits(destinations[i], DType::kBf16, 0, static_cast<uint32_t>(10 * (rendezvous.rank() + 1)) + i);
    }
    ASSERT_TRUE(rendezvous.AllGatherBytes("written", "", absl::Minutes(1)).ok());
    const uint16_t expected[3][3] = {{10, 21, 31}, {11, 20, 32}, {12, 22, 30}};
    for (int owner = 0; owner < 3; ++owner) {
      EXPECT_EQ((*communicator)->weights().as<Bf16>()[owner * 64].bits, expected[rendezvous.rank()][owner])
          << "shard " << owner << " as rank " << rendezvous.rank() << " sees it";
    }
    ASSERT_TRUE(rendezvous.AllGatherBytes("read", "", absl::Minutes(1)).ok());
  });
}

TEST(ShmCommunicatorTest, WhatOnlyJoinsHostsIsRefusedByName) {
  RunRankThreads(2, [](Rendezvous& rendezvous) {
    EXPECT_FALSE((*CreateShmCommunicator(rendezvous, {}))->traits().joins_hosts);
    EXPECT_EQ((*CreateShmCommunicator(rendezvous, {}))->Allocate({.buckets = kOneBucket, .contributions = 2}),
              absl::InvalidArgumentError("rank 0: contributions = 2, shared memory takes none"));
    std::byte memory[256];
    EXPECT_EQ((*CreateShmCommunicator(rendezvous, {}))->Allocate({.buckets = kOneBucket, .weights = {memory, 256}}),
              absl::InvalidArgumentError("rank 0: weights: shared memory does not take weights that exist"));
    ASSERT_TRUE(rendezvous.AllGatherBytes("done", "", absl::Minutes(1)).ok());
  });
}

// Frozen parameters have gradients that nobody touches.
TEST(ShmCommunicatorTest, GradientsThatNobodyTouchesCostNoMemory) {
  RunRankThreads(2, [](Rendezvous& rendezvous) {
    for (const bool inproc : {false, true}) {
      const BucketExtent buckets[] = {
          {.shard_elements = int64_t{1} << 20, .gradient_dtype = DType::kFp32, .weight_begin_byte = 64},
          {.shard_elements = 1, .gradient_dtype = DType::kFp32, .gradient_begin_byte = int64_t{8} << 20}};
      auto communicator = inproc ? CreateInprocCommunicator(rendezvous, {}) : CreateShmCommunicator(rendezvous, {});
      ASSERT_TRUE(communicator.ok()) << communicator.status();
      ASSERT_TRUE((*communicator)->Allocate({.buckets = buckets}).ok());
      ASSERT_TRUE(rendezvous.AllGatherBytes("allocated", "", absl::Minutes(1)).ok());
      const BufferView gradients = (*communicator)->gradients();
      std::vector<unsigned char> resident(static_cast<size_t>((gradients.size_bytes + 4095) / 4096));
      ASSERT_EQ(mincore(gradients.data, static_cast<size_t>(gradients.size_bytes), resident.data()), 0);
      // On the heap a huge page of the mapping before or behind may reach into the arena.
      EXPECT_LE(std::count_if(resident.begin(), resident.end(), [](unsigned char page) { return (page & 1) != 0; }),
                inproc ? 2 * 511 : 0);
      ASSERT_TRUE(rendezvous.AllGatherBytes("looked", "", absl::Minutes(1)).ok());
    }
  });
}

// Ranks of a larger job are called by its numbers, wherever a message names them.
TEST(ShmCommunicatorTest, MessagesCallRanksByTheirNames) {
  RunRankThreads(2, [](Rendezvous& rendezvous) {
    const bool is_first = rendezvous.rank() == 0;
    const SharedMemoryOptions options{.wait_deadline = absl::Milliseconds(100), .rank_names = {3, 7}};
    SharedMemoryOptions elsewhere = options;
    elsewhere.host_id = is_first ? "blue" : "green";
    EXPECT_EQ(CreateShmCommunicator(rendezvous, elsewhere).status(),
              absl::FailedPreconditionError("Create: host_id differs: rank 3 has blue, rank 7 has green"));
    const BucketExtent bucket{.shard_elements = is_first ? 64 : 128};
    EXPECT_EQ(
        (*CreateShmCommunicator(rendezvous, options))->Allocate({.buckets = {&bucket, 1}}),
        absl::FailedPreconditionError("Allocate: bucket 0 differs: rank 3 has shard_elements = 64, rank 7 has 128"));
    auto communicator = CreateShmCommunicator(rendezvous, options);
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    ASSERT_TRUE((*communicator)->Allocate({.buckets = kOneBucket}).ok());
    if (is_first) {
      InlineStream stream;
      ASSERT_TRUE((*communicator)->AwaitSlices(0, 0, stream).ok());
      EXPECT_EQ(stream.status().message(),
                "AwaitSlices of bucket 0, micro-step 0: ranks 3, 7 did not arrive within 100ms");
    }
    ASSERT_TRUE(rendezvous.AllGatherBytes("waited", "", absl::Minutes(1)).ok());
    if (!is_first) (*communicator)->Abort(absl::InternalError("enough"));
    ASSERT_TRUE(rendezvous.AllGatherBytes("aborted", "", absl::Minutes(1)).ok());
    EXPECT_EQ((*communicator)->AsyncStatus().message(), "rank 7 aborted: enough");
    ASSERT_TRUE(rendezvous.AllGatherBytes("done", "", absl::Minutes(1)).ok());
  });
}

TEST(ShmCommunicatorTest, NamesForOtherThanAllRanksAreRefused) {
  RunRankThreads(2, [](Rendezvous& rendezvous) {
    EXPECT_EQ(CreateShmCommunicator(rendezvous, {.rank_names = {3}}).status(),
              absl::InvalidArgumentError("rank 0: rank_names: 1 names for 2 ranks"));
  });
}

}  // namespace
}  // namespace shardstep
