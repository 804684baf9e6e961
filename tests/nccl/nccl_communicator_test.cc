// What NCCL's communicator does beyond the contract of all: where slices lie, which calls it makes, what rounds.

#include <atomic>

#include "shardstep/comm/bf16.h"
#include "shardstep/tests/comm/contract_trainer.h"
#include "shardstep/tests/nccl/nccl_machine.h"

namespace shardstep {
namespace {

using testing::HasSubstr;
using Body = std::function<void(Communicator&, ContractDevice&, Rendezvous&)>;

void Meet(Rendezvous& rendezvous) { ASSERT_TRUE(rendezvous.AllGatherBytes("test", "", absl::Minutes(1)).ok()); }

void RunRanks(NcclMachine& machine, const NcclOptions& options, const Body& body) {
  machine.Run([&](Rendezvous& rendezvous) {
    NcclContractDevice device(machine, rendezvous.rank());
    auto communicator = machine.Create(rendezvous, options);
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    body(**communicator, device, rendezvous);
    Meet(rendezvous);
  });
}

absl::Status Finish(Stream& stream) { return stream.Synchronize(stream.Record()); }

// As many buckets of `shard_elements`, bf16.
std::vector<BucketExtent> EqualBuckets(int count, int64_t shard_elements, int world_size) {
  std::vector<BucketExtent> buckets(static_cast<size_t>(count));
  for (int b = 0; b < count; ++b) {
    const int64_t begin_byte = b * shard_elements * world_size * 2;
    buckets[static_cast<size_t>(b)] = {
        .shard_elements = shard_elements, .gradient_begin_byte = begin_byte, .weight_begin_byte = begin_byte};
  }
  return buckets;
}

TEST(NcclCommunicatorTest, ExchangesLandInTheSlotsOfTheRingInTurn) {
  for (const bool all_to_all : {true, false}) {
    NcclMachine machine(2, {.all_to_all = all_to_all});
    NcclOptions options = QuickNccl();
    options.landing_buckets = 2;
    RunRanks(machine, options, [](Communicator& communicator, ContractDevice& device, Rendezvous&) {
      const auto buckets = EqualBuckets(3, 128, 2);
      ASSERT_TRUE(communicator.Allocate({.buckets = buckets}).ok());
      const auto stream = device.MakeStream();
      const auto other = static_cast<size_t>(1 - communicator.rank());
      std::vector<const void*> landed;
      for (int b = 0; b < 3; ++b) {
        ASSERT_TRUE(communicator.Exchange(b, 0, {}, *stream).ok());
        ASSERT_TRUE(communicator.AwaitSlices(b, 0, *stream).ok());
        landed.push_back(communicator.slices(b, 0)[other].data);
        const std::byte* const own = communicator.gradients().data + (b * 2 + communicator.rank()) * 128 * 2;
        EXPECT_EQ(communicator.slices(b, 0)[1 - other].data, own) << "the own slice is the own memory";
        ASSERT_TRUE(communicator.Release(b, 0, *stream).ok());
      }
      EXPECT_EQ(landed[0], landed[2]);
      EXPECT_NE(landed[0], landed[1]);
      EXPECT_EQ(Finish(*stream), absl::OkStatus());
    });
    machine.ExpectClean();
  }
}

TEST(NcclCommunicatorTest, ASlotThatIsNotReleasedIsNotOverwritten) {
  NcclMachine machine(2);
  NcclOptions options = QuickNccl();
  options.landing_buckets = 2;
  RunRanks(machine, options, [](Communicator& communicator, ContractDevice& device, Rendezvous&) {
    const auto buckets = EqualBuckets(3, 64, 2);
    ASSERT_TRUE(communicator.Allocate({.buckets = buckets}).ok());
    const auto stream = device.MakeStream();
    for (int b = 0; b < 2; ++b) ASSERT_TRUE(communicator.Exchange(b, 4, {}, *stream).ok());
    EXPECT_EQ(communicator.Exchange(2, 4, {}, *stream),
              absl::FailedPreconditionError("Exchange of bucket 2, micro-step 4: its landing slot holds bucket 0, "
                                            "micro-step 4, which is not released"));
    EXPECT_EQ(Finish(*stream), absl::OkStatus());
  });
  machine.ExpectClean();
}

TEST(NcclCommunicatorTest, WhatIsAwaitedHasBegun) {
  NcclMachine machine(2);
  RunRanks(machine, QuickNccl(), [](Communicator& communicator, ContractDevice& device, Rendezvous&) {
    const auto buckets = EqualBuckets(1, 64, 2);
    ASSERT_TRUE(communicator.Allocate({.buckets = buckets}).ok());
    const auto stream = device.MakeStream();
    EXPECT_EQ(communicator.AwaitSlices(0, 0, *stream),
              absl::FailedPreconditionError("AwaitSlices of bucket 0, micro-step 0: before its Exchange"));
    EXPECT_EQ(communicator.Release(0, 0, *stream),
              absl::FailedPreconditionError("Release of bucket 0, micro-step 0: before its Exchange"));
    EXPECT_EQ(communicator.AwaitReleased(0, 0, *stream),
              absl::FailedPreconditionError("AwaitReleased of bucket 0, micro-step 0: before its Release"));
    EXPECT_EQ(communicator.AwaitPublished(0, 0, *stream),
              absl::FailedPreconditionError("AwaitPublished of bucket 0, step 0: before its Publish"));
    ASSERT_TRUE(communicator.Publish(0, 0, *stream).ok());
    EXPECT_EQ(communicator.Publish(0, 0, *stream),
              absl::FailedPreconditionError("Publish of bucket 0, step 0: step 0 is already done"));
    EXPECT_EQ(Finish(*stream), absl::OkStatus());
  });
  machine.ExpectClean();
}

// One step of one bucket, whose calls are counted.
void TrainOnce(NcclMachine& machine, const NcclOptions& options, int contributions) {
  RunRanks(machine, options, [&](Communicator& communicator, ContractDevice& device, Rendezvous&) {
    const ContractLoad load{EqualBuckets(1, 64, communicator.world_size()), 1, contributions};
    ASSERT_TRUE(communicator.Allocate({.buckets = load.buckets, .contributions = contributions}).ok());
    ContractTrainer trainer(communicator, load, device);
    ASSERT_EQ(trainer.Step(0), absl::OkStatus());
    EXPECT_EQ(FirstWrongByte(communicator, SerialWeights(load, communicator.world_size(), 1, 0)), -1);
  });
  machine.ExpectClean();
}

TEST(NcclCommunicatorTest, AnExchangeIsOneAllToAllWhereThereIsOne) {
  NcclMachine machine(4);
  TrainOnce(machine, QuickNccl(), 0);
  EXPECT_EQ(machine.nccl.calls("AllToAll"), 4);
  EXPECT_EQ(machine.nccl.calls("Send"), 0);
  EXPECT_EQ(machine.nccl.calls("AllGather"), 4);
}

TEST(NcclCommunicatorTest, ContributionsAreMessagesToEveryOtherRank) {
  NcclMachine machine(4);
  TrainOnce(machine, QuickNccl(), 2);
  EXPECT_EQ(machine.nccl.calls("AllToAll"), 0);
  EXPECT_EQ(machine.nccl.calls("Send"), 4 * 3 * 2);
  EXPECT_EQ(machine.nccl.calls("Recv"), 4 * 3 * 2);
}

TEST(NcclCommunicatorTest, ConnectionsThatAreMadeWhenNeededChangeNothing) {
  for (const int contributions : {0, 2}) {
    NcclMachine machine(3, {.connects_when_needed = true});
    TrainOnce(machine, QuickNccl(), contributions);
  }
}

TEST(NcclCommunicatorTest, OneRankNeedsNoNccl) {
  NcclMachine machine(1);
  TrainOnce(machine, QuickNccl(), 0);
  for (const char* const call : {"GetUniqueId", "CommInitRank", "GroupStart", "AllToAll", "AllGather", "AllReduceSum",
                                 "CommGetAsyncError", "CommFinalize", "CommDestroy", "CommAbort"}) {
    EXPECT_EQ(machine.nccl.calls(call), 0) << call;
  }
}

TEST(NcclCommunicatorTest, EmptyBucketsMakeNoCalls) {
  NcclMachine machine(2);
  RunRanks(machine, QuickNccl(), [](Communicator& communicator, ContractDevice& device, Rendezvous&) {
    const auto buckets = EqualBuckets(1, 0, 2);
    ASSERT_TRUE(communicator.Allocate({.buckets = buckets}).ok());
    ContractTrainer trainer(communicator, {.buckets = buckets}, device);
    EXPECT_EQ(trainer.Step(0), absl::OkStatus());
  });
  EXPECT_EQ(machine.nccl.calls("AllToAll") + machine.nccl.calls("AllGather"), 0);
  machine.ExpectClean();
}

// The caller's streams go on while the others have not come: what waits is the communicator's own stream.
TEST(NcclCommunicatorTest, ExchangeAndPublishHoldUpNoStreamOfTheCaller) {
  NcclMachine machine(2);
  RunRanks(machine, QuickNccl(), [](Communicator& communicator, ContractDevice& device, Rendezvous& rendezvous) {
    const auto buckets = EqualBuckets(1, 64, 2);
    ASSERT_TRUE(communicator.Allocate({.buckets = buckets}).ok());
    const auto stream = device.MakeStream();
    if (communicator.rank() == 1) Meet(rendezvous);
    ASSERT_TRUE(communicator.Exchange(0, 0, {}, *stream).ok());
    ASSERT_TRUE(communicator.Publish(0, 0, *stream).ok());
    EXPECT_EQ(Finish(*stream), absl::OkStatus());
    if (communicator.rank() == 0) Meet(rendezvous);
    ASSERT_TRUE(communicator.AwaitPublished(0, 0, *stream).ok());
    EXPECT_EQ(Finish(*stream), absl::OkStatus());
  });
  machine.ExpectClean();
}

TEST(NcclCommunicatorTest, NoCallOfAStepBlocksTheHost) {
  NcclMachine machine(2);
  RunRanks(machine, QuickNccl(), [&](Communicator& communicator, ContractDevice& device, Rendezvous& rendezvous) {
    const auto buckets = EqualBuckets(2, 64, 2);
    ASSERT_TRUE(communicator.Allocate({.buckets = buckets}).ok());
    const auto stream = device.MakeStream();
    auto reduction = device.memory().AllocateForBoth(sizeof(SmallReduction), "reduction");
    ASSERT_TRUE(reduction.ok());
    Meet(rendezvous);
    const int64_t before = machine.cuda.blocking_calls();
    Meet(rendezvous);
    for (int b = 0; b < 2; ++b) {
      EXPECT_EQ(communicator.Exchange(b, 0, {}, *stream), absl::OkStatus());
      EXPECT_EQ(communicator.AwaitSlices(b, 0, *stream), absl::OkStatus());
      EXPECT_EQ(communicator.Release(b, 0, *stream), absl::OkStatus());
      EXPECT_EQ(communicator.AwaitReleased(b, 0, *stream), absl::OkStatus());
    }
    EXPECT_EQ(communicator.AllReduceSmall(reduction->as<SmallReduction>(), *stream), absl::OkStatus());
    for (int b = 0; b < 2; ++b) {
      EXPECT_EQ(communicator.Publish(b, 0, *stream), absl::OkStatus());
      EXPECT_EQ(communicator.AwaitPublished(b, 0, *stream), absl::OkStatus());
    }
    Meet(rendezvous);
    EXPECT_EQ(machine.cuda.blocking_calls(), before);
    Meet(rendezvous);
    EXPECT_EQ(Finish(*stream), absl::OkStatus());
  });
  machine.ExpectClean();
}

// ---- Sums that NCCL forms -------------------------------------------------------------------------------------------

constexpr int kRanks = 3;
constexpr int64_t kElements = 64;

float GradientOf(int rank, int64_t i) { return rank == 0 ? 256.0f : 1.0f + static_cast<float>(i % 2); }

NcclOptions ReduceScatterOptions() {
  NcclOptions options = QuickNccl();
  options.exchange = NcclExchange::kReduceScatter;
  return options;
}

TEST(NcclCommunicatorTest, SumsOfNcclAreOneSliceAndRoundAtEveryHop) {
  NcclMachine machine(kRanks);
  std::atomic<int> inexact = 0;
  RunRanks(machine, ReduceScatterOptions(), [&](Communicator& communicator, ContractDevice& device, Rendezvous&) {
    const auto buckets = EqualBuckets(1, kElements, kRanks);
    ASSERT_TRUE(communicator.Allocate({.buckets = buckets}).ok());
    const int rank = communicator.rank();
    auto* const gradients = communicator.gradients().as<Bf16>();
    for (int64_t i = 0; i < kElements * kRanks; ++i) gradients[i] = ToBf16(GradientOf(rank, i));
    const auto stream = device.MakeStream();
    ASSERT_TRUE(communicator.Exchange(0, 0, {}, *stream).ok());
    ASSERT_TRUE(communicator.AwaitSlices(0, 0, *stream).ok());
    ASSERT_EQ(Finish(*stream), absl::OkStatus());
    const absl::Span<const Slice> slices = communicator.slices(0, 0);
    ASSERT_EQ(slices.size(), 1u);
    EXPECT_EQ(slices[0].rank, 0);
    EXPECT_EQ(slices[0].ranks, kRanks);
    EXPECT_TRUE(slices[0].partial);
    EXPECT_EQ(slices[0].dtype, DType::kBf16);
    for (int64_t i = 0; i < kElements; ++i) {
      const auto term = [&](int hop) { return GradientOf((rank + 1 + hop) % kRanks, rank * kElements + i); };
      const Bf16 rounded = ToBf16(ToFloat(ToBf16(term(0) + term(1))) + term(2));
      EXPECT_EQ(static_cast<const Bf16*>(slices[0].data)[i], rounded) << i;
      if (ToFloat(rounded) != term(0) + term(1) + term(2)) ++inexact;
    }
    ASSERT_TRUE(communicator.Release(0, 0, *stream).ok());
    EXPECT_EQ(Finish(*stream), absl::OkStatus());
  });
  EXPECT_GT(inexact.load(), 0) << "an fp32 sum would pass as well";
  machine.ExpectClean();
}

TEST(NcclCommunicatorTest, TraitsNameWhatRounds) {
  for (const bool adds : {false, true}) {
    for (const int world_size : {1, 2}) {
      NcclMachine machine(world_size);
      RunRanks(machine, adds ? ReduceScatterOptions() : QuickNccl(),
               [&](Communicator& communicator, ContractDevice&, Rendezvous&) {
                 const CommunicatorTraits traits = communicator.traits();
                 EXPECT_EQ(traits.joins_hosts, !adds);
                 EXPECT_FALSE(traits.slices_persist);
                 EXPECT_EQ(traits.landing_buckets, 3);
                 if (adds && world_size > 1) {
                   EXPECT_STREQ(traits.inexact_mode, "nccl_reduce_scatter");
                 } else {
                   EXPECT_EQ(traits.inexact_mode, nullptr);
                 }
               });
      machine.ExpectClean();
    }
  }
}

TEST(NcclCommunicatorTest, SumsOfNcclTakeNoContributions) {
  NcclMachine machine(2);
  RunRanks(machine, ReduceScatterOptions(), [](Communicator& communicator, ContractDevice&, Rendezvous&) {
    const auto buckets = EqualBuckets(1, 64, 2);
    EXPECT_EQ(communicator.Allocate({.buckets = buckets, .contributions = 2}),
              absl::InvalidArgumentError("rank 0: contributions = 2: exchange = nccl_reduce_scatter takes none"));
  });
  machine.ExpectClean();
}

TEST(NcclCommunicatorTest, WeightsThatTheDeviceDoesNotReachAreRefused) {
  NcclMachine machine(2);
  RunRanks(machine, QuickNccl(), [](Communicator& communicator, ContractDevice&, Rendezvous&) {
    const auto buckets = EqualBuckets(1, 64, 2);
    std::vector<std::byte> weights(1 << 20);
    EXPECT_EQ(communicator.Allocate({.buckets = buckets, .weights = {weights.data(), 1 << 20}}),
              absl::InvalidArgumentError("rank 0: weights: not memory of device 0"));
  });
  machine.ExpectClean();
}

}  // namespace
}  // namespace shardstep
