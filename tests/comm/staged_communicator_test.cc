#include "shardstep/comm/staged/staged_communicator.h"

#include <chrono>
#include <future>
#include <ostream>
#include <random>
#include <thread>

#include "shardstep/tests/comm/staged_trainer.h"

namespace shardstep {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr absl::Duration kLong = absl::Minutes(5);
constexpr absl::Duration kShort = absl::Milliseconds(150);
constexpr BucketExtent kBuckets[] = {{.shard_elements = 64},
                                     {.shard_elements = 32, .gradient_begin_byte = 1024, .weight_begin_byte = 1024}};

void Meet(Rendezvous& rendezvous) { ASSERT_TRUE(rendezvous.AllGatherBytes("test", "", kLong).ok()); }

std::unique_ptr<CudaStream> MakeStream(StagedMachine& machine, Rendezvous& rendezvous) {
  return CudaStream::Create({&machine.cuda, machine.device(rendezvous.rank())}, "test").value();
}

absl::Status Synchronize(CudaStream& stream) { return stream.Synchronize(stream.Record()); }

/// Passes everything on. What tests replace is virtual.
class WrappedCommunicator : public Communicator {
 public:
  explicit WrappedCommunicator(std::unique_ptr<Communicator> inner) : inner_(std::move(inner)) {}
  int rank() const override { return inner_->rank(); }
  int world_size() const override { return inner_->world_size(); }
  CommunicatorTraits traits() const override { return inner_->traits(); }
  absl::Status Allocate(const ArenaRequest& request) override { return inner_->Allocate(request); }
  BufferView gradients() override { return inner_->gradients(); }
  BufferView weights() override { return inner_->weights(); }
  absl::Status Exchange(int b, int64_t k, absl::Span<const Slice> contributions, Stream& stream) override {
    return inner_->Exchange(b, k, contributions, stream);
  }
  absl::Status AwaitSlices(int b, int64_t k, Stream& stream) override { return inner_->AwaitSlices(b, k, stream); }
  absl::Span<const Slice> slices(int b, int64_t k) override { return inner_->slices(b, k); }
  absl::Status Release(int b, int64_t k, Stream& stream) override { return inner_->Release(b, k, stream); }
  absl::Status AwaitReleased(int b, int64_t k, Stream& stream) override { return inner_->AwaitReleased(b, k, stream); }
  absl::Status AllReduceSmall(SmallReduction* reduction, Stream& stream) override {
    return inner_->AllReduceSmall(reduction, stream);
  }
  absl::Span<void* const> Destinations(int b) override { return inner_->Destinations(b); }
  absl::Status Publish(int b, int64_t step, Stream& stream) override { return inner_->Publish(b, step, stream); }
  absl::Status AwaitPublished(int b, int64_t step, Stream& stream) override {
    return inner_->AwaitPublished(b, step, stream);
  }
  void Abort(const absl::Status& reason) override { inner_->Abort(reason); }
  absl::Status AsyncStatus() const override { return inner_->AsyncStatus(); }
  void SetAway(absl::Duration duration) override { inner_->SetAway(duration); }

 protected:
  const std::unique_ptr<Communicator> inner_;
};

/// As ranks of `machine`, with kBuckets allocated.
void RunAllocated(StagedMachine& machine, absl::Duration wait_deadline,
                  const std::function<void(Communicator&, Rendezvous&, CudaStream&)>& body) {
  machine.Run([&](Rendezvous& rendezvous) {
    auto communicator = machine.Create(rendezvous, wait_deadline);
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    ASSERT_TRUE((*communicator)->Allocate({.buckets = kBuckets}).ok());
    const auto stream = MakeStream(machine, rendezvous);
    body(**communicator, rendezvous, *stream);
    Meet(rendezvous);
  });
  machine.ExpectClean();
}

// ---- Order ---------------------------------------------------------------------------------------------------------

struct Pace {
  std::string name;
  CreateInner create_inner;
  int ranks = 2;
  int slow_rank = -1;  ///< -1: all, at random
  int landing_buckets = 3;
};

void PrintTo(const Pace& pace, std::ostream* stream) { *stream << pace.name; }

class StagedOrder : public testing::TestWithParam<Pace> {};

TEST_P(StagedOrder, StepsThatNobodyWaitsForEqualTheSerialLoop) {
  const Pace& pace = GetParam();
  StagedMachine machine(pace.ranks, pace.create_inner, {.devices = 2, .delay_seed = 11});
  machine.Run([&](Rendezvous& rendezvous) {
    auto communicator = machine.Create(rendezvous, kLong, pace.landing_buckets);
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    const ContractLoad load{.buckets = ContractBuckets(pace.ranks), .micro_steps = 2};
    ASSERT_TRUE((*communicator)->Allocate({.buckets = load.buckets}).ok());
    std::mt19937 random(static_cast<uint32_t>(rendezvous.rank()));
    Mutex mutex;
    const auto pause = [&] {
      if (pace.slow_rank >= 0 && rendezvous.rank() != pace.slow_rank) return;
      uint32_t us = 0;
      {
        const MutexLock lock(&mutex);
        us = random() % 300;
      }
      std::this_thread::sleep_for(std::chrono::microseconds(us));
    };
    StagedTrainer trainer(machine, **communicator, load, pause);
    for (int64_t step = 0; step < 4; ++step) {
      const absl::Status status = trainer.Step(step);
      ASSERT_TRUE(status.ok()) << status;
    }
    const absl::Status status = trainer.Finish();
    EXPECT_TRUE(status.ok()) << status;
    Meet(rendezvous);
  });
  machine.ExpectClean();
}

INSTANTIATE_TEST_SUITE_P(
    , StagedOrder,
    testing::Values(Pace{.name = "Alone", .create_inner = CreateInprocInner, .ranks = 1},
                    Pace{.name = "Two", .create_inner = CreateInprocInner},
                    Pace{.name = "OneSlot", .create_inner = CreateInprocInner, .ranks = 3, .landing_buckets = 1},
                    Pace{.name = "SlowFirst", .create_inner = CreateInprocInner, .ranks = 4, .slow_rank = 0},
                    Pace{.name = "SlowLast", .create_inner = CreateLandingInner, .ranks = 4, .slow_rank = 3},
                    Pace{.name = "NetworkOneSlot", .create_inner = CreateLandingInner, .landing_buckets = 1},
                    Pace{.name = "Many", .create_inner = CreateInprocInner, .ranks = 8},
                    Pace{.name = "ManyOverNetwork", .create_inner = CreateLandingInner, .ranks = 8}),
    [](const testing::TestParamInfo<Pace>& pace) { return pace.param.name; });

TEST(StagedCommunicatorTest, NoCallWaits) {
  StagedMachine machine(2, CreateInprocInner);
  RunAllocated(machine, kLong, [&](Communicator& communicator, Rendezvous& rendezvous, CudaStream& stream) {
    // Everything is issued on both ranks before any of it can begin.
    std::promise<void> begin;
    ASSERT_EQ(machine.cuda.Enqueue(stream.handle(), "hold", {}, [&] { begin.get_future().wait(); }), 0);
    SmallReduction reduction;
    reduction.sums[SmallReduction::kArrivals] = 1;
    for (int b = 0; b < 2; ++b) {
      ASSERT_TRUE(communicator.Exchange(b, 0, {}, stream).ok());
      ASSERT_TRUE(communicator.AwaitSlices(b, 0, stream).ok());
      ASSERT_TRUE(communicator.Release(b, 0, stream).ok());
      ASSERT_TRUE(communicator.AwaitReleased(b, 0, stream).ok());
    }
    ASSERT_TRUE(communicator.AllReduceSmall(&reduction, stream).ok());
    for (int b = 0; b < 2; ++b) ASSERT_TRUE(communicator.Publish(b, 0, stream).ok());
    for (int b = 0; b < 2; ++b) ASSERT_TRUE(communicator.AwaitPublished(b, 0, stream).ok());
    EXPECT_EQ(reduction.sums[SmallReduction::kArrivals], 1);
    Meet(rendezvous);
    begin.set_value();
    EXPECT_TRUE(Synchronize(stream).ok());
    EXPECT_EQ(reduction.sums[SmallReduction::kArrivals], 2);
  });
}

TEST(StagedCommunicatorTest, ALandingSlotMustBeReleasedFirst) {
  StagedMachine machine(2, CreateInprocInner);
  RunAllocated(machine, kLong, [](Communicator& communicator, Rendezvous&, CudaStream& stream) {
    for (int64_t k = 0; k < 3; ++k) ASSERT_TRUE(communicator.Exchange(0, k, {}, stream).ok());
    EXPECT_EQ(communicator.Exchange(1, 0, {}, stream),
              absl::FailedPreconditionError("Exchange of bucket 1, micro-step 0: its landing slot holds bucket 0, "
                                            "micro-step 0, not released"));
    for (int64_t k = 0; k < 3; ++k) ASSERT_TRUE(communicator.Release(0, k, stream).ok());
    ASSERT_TRUE(communicator.Exchange(1, 0, {}, stream).ok());
    ASSERT_TRUE(communicator.AwaitSlices(1, 0, stream).ok());
    EXPECT_TRUE(Synchronize(stream).ok());
  });
}

// ---- Memory --------------------------------------------------------------------------------------------------------

int64_t FreeBytes(StagedMachine& machine) {
  int64_t free_bytes = 0;
  int64_t total_bytes = 0;
  EXPECT_EQ(machine.cuda.MemGetInfo(&free_bytes, &total_bytes), 0);
  return free_bytes;
}

TEST(StagedCommunicatorTest, DeviceMemoryIsGradientsWeightsAndTheRing) {
  StagedMachine machine(2, CreateInprocInner, {.devices = 2});
  machine.Run([&](Rendezvous& rendezvous) {
    auto communicator = machine.Create(rendezvous, kLong, /*landing_buckets=*/5);
    ASSERT_TRUE(communicator.ok());
    ASSERT_EQ(machine.cuda.SetDevice(machine.device(rendezvous.rank())), 0);
    const int64_t before = FreeBytes(machine);
    const BucketExtent buckets[] = {{.shard_elements = 1024},
                                    {.shard_elements = 512, .gradient_begin_byte = 4096, .weight_begin_byte = 4096}};
    ASSERT_TRUE((*communicator)->Allocate({.buckets = buckets}).ok());
    EXPECT_EQ(before - FreeBytes(machine), 6144 + 6144 + 5 * 4096);
    CudaPointerInfo info;
    ASSERT_EQ(machine.cuda.PointerGetAttributes((*communicator)->weights().data, &info), 0);
    EXPECT_EQ(info.kind, CudaPointerInfo::kDevice);
    EXPECT_EQ(info.device, rendezvous.rank());
    Meet(rendezvous);
  });
  machine.ExpectClean();
}

TEST(StagedCommunicatorTest, WhatLeavesIsPinnedAndStepsAllocateNothing) {
  StagedMachine machine(2, CreateInprocInner);
  FakeCuda& cuda = machine.cuda;
  machine.Run([&](Rendezvous& rendezvous) {
    auto communicator = machine.Create(rendezvous, kLong);
    ASSERT_TRUE(communicator.ok());
    const ContractLoad load{.buckets = ContractBuckets(2), .micro_steps = 2};
    ASSERT_TRUE((*communicator)->Allocate({.buckets = load.buckets}).ok());
    StagedTrainer trainer(machine, **communicator, load);
    Meet(rendezvous);
    EXPECT_EQ(cuda.calls("HostRegister"), 4);  // of two gradient arenas and one of weights, twice
    const auto allocations = [&] {
      return cuda.calls("Malloc") + cuda.calls("HostAlloc") + cuda.calls("HostRegister") + cuda.calls("StreamCreate") +
             cuda.calls("Free") + cuda.calls("FreeHost");
    };
    const int64_t before = allocations();
    Meet(rendezvous);
    for (int64_t step = 0; step < 3; ++step) ASSERT_TRUE(trainer.Step(step).ok());
    EXPECT_TRUE(trainer.Finish().ok());
    EXPECT_EQ(allocations(), before);
    Meet(rendezvous);
  });
  EXPECT_EQ(cuda.calls("HostUnregister"), 3);
  machine.ExpectClean();
}

/// Nobody may call it but for the end of a job.
class UntouchedCommunicator : public WrappedCommunicator {
 public:
  using WrappedCommunicator::WrappedCommunicator;
  absl::Status Allocate(const ArenaRequest&) override {
    ADD_FAILURE() << "Allocate";
    return absl::OkStatus();
  }
  absl::Status AllReduceSmall(SmallReduction*, Stream&) override {
    ADD_FAILURE() << "AllReduceSmall";
    return absl::OkStatus();
  }
};

TEST(StagedCommunicatorTest, ARankAloneCopiesNothing) {
  StagedMachine machine(1, CreateInprocInner);
  machine.Run([&](Rendezvous& rendezvous) {
    auto inner = CreateInprocInner(rendezvous, kLong);
    ASSERT_TRUE(inner.ok());
    auto communicator = machine.CreateAround(rendezvous, std::make_unique<UntouchedCommunicator>(*std::move(inner)));
    ASSERT_TRUE(communicator.ok());
    const ContractLoad load{.buckets = ContractBuckets(1), .micro_steps = 2};
    ASSERT_TRUE((*communicator)->Allocate({.buckets = load.buckets}).ok());
    StagedTrainer trainer(machine, **communicator, load);
    for (int64_t step = 0; step < 2; ++step) ASSERT_TRUE(trainer.Step(step).ok());
    EXPECT_TRUE(trainer.Finish().ok());
    EXPECT_EQ((*communicator)->slices(0, 3)[0].data, (*communicator)->gradients().data);
  });
  EXPECT_EQ(machine.cuda.calls("MemcpyAsync"), 0);
  machine.ExpectClean();
}

// ---- Creation fails on one rank ------------------------------------------------------------------------------------

TEST(StagedCommunicatorTest, BadOptionsAreRefusedOnEveryRank) {
  StagedMachine machine(2, CreateInprocInner);
  machine.Run([&](Rendezvous& rendezvous) {
    const auto communicator = machine.Create(rendezvous, kLong, /*landing_buckets=*/rendezvous.rank() == 0 ? 3 : 0);
    EXPECT_EQ(communicator.status(), absl::InvalidArgumentError("rank 1: landing_buckets = 0 is not positive"));
  });
  machine.ExpectClean();
}

TEST(StagedCommunicatorTest, TheErrorOfOneRankIsEveryRanks) {
  for (const char* const call : {"StreamCreate", "HostAlloc", "EventCreate"}) {
    StagedMachine machine(2, CreateInprocInner);
    machine.cuda.FailCall(call, 3, CudaApi::kMemoryAllocation);
    machine.Run([&](Rendezvous& rendezvous) {
      const auto communicator = machine.Create(rendezvous, kLong);
      EXPECT_EQ(communicator.status().code(), absl::StatusCode::kResourceExhausted) << communicator.status();
      EXPECT_THAT(std::string(communicator.status().message()), StartsWith("rank "));
    });
    machine.ExpectClean();
  }
}

TEST(StagedCommunicatorTest, TooLittleMemoryOfOneRankIsAnErrorOnEveryRank) {
  for (const char* const call : {"MemGetInfo", "Malloc", "HostRegister"}) {
    StagedMachine machine(3, CreateInprocInner);
    machine.Run([&](Rendezvous& rendezvous) {
      auto communicator = machine.Create(rendezvous, kLong);
      ASSERT_TRUE(communicator.ok());
      if (rendezvous.rank() == 0) machine.cuda.FailCall(call, 2, CudaApi::kMemoryAllocation);
      Meet(rendezvous);
      const absl::Status status = (*communicator)->Allocate({.buckets = kBuckets});
      EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
      EXPECT_THAT(std::string(status.message()), StartsWith("rank "));
      const auto stream = MakeStream(machine, rendezvous);
      EXPECT_EQ((*communicator)->Exchange(0, 0, {}, *stream),
                absl::FailedPreconditionError("Exchange: before Allocate"));
      Meet(rendezvous);
    });
    machine.ExpectClean();
  }
}

// ---- Failures of works ---------------------------------------------------------------------------------------------

TEST(StagedCommunicatorTest, ADeadlineIsTheErrorOfAllStreamsAndOfLaterCalls) {
  StagedMachine machine(2, CreateInprocInner);
  RunAllocated(machine, kShort, [&](Communicator& communicator, Rendezvous& rendezvous, CudaStream& stream) {
    if (rendezvous.rank() != 0) return;
    const absl::Status late =
        absl::DeadlineExceededError("AwaitSlices of bucket 0, micro-step 0: rank 1 did not arrive within 150ms");
    const auto other = MakeStream(machine, rendezvous);
    ASSERT_TRUE(communicator.Publish(0, 0, *other).ok());
    ASSERT_TRUE(communicator.Exchange(0, 0, {}, stream).ok());
    ASSERT_TRUE(communicator.AwaitSlices(0, 0, stream).ok());
    const absl::Status status = Synchronize(stream);
    // Rank 1 has not published either; both deadlines began at the same time.
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1 did not arrive within 150ms"));
    EXPECT_EQ(other->status(), status);
    EXPECT_EQ(communicator.AsyncStatus(), status);
    SmallReduction reduction;
    EXPECT_EQ(communicator.AllReduceSmall(&reduction, *other), status);
    EXPECT_EQ(communicator.AwaitPublished(0, 0, stream), status);
  });
}

/// Of rank 0: scribbles, then fails.
class TornReduction : public WrappedCommunicator {
 public:
  using WrappedCommunicator::WrappedCommunicator;
  absl::Status AllReduceSmall(SmallReduction* reduction, Stream& stream) override {
    if (rank() != 0) return inner_->AllReduceSmall(reduction, stream);
    reduction->sums.fill(world_size());
    return absl::DataLossError("torn");
  }
};

TEST(StagedCommunicatorTest, AReductionThatFailedIsNotWhole) {
  StagedMachine machine(2, CreateInprocInner);
  machine.Run([&](Rendezvous& rendezvous) {
    auto inner = CreateInprocInner(rendezvous, kLong);
    ASSERT_TRUE(inner.ok());
    auto communicator = machine.CreateAround(rendezvous, std::make_unique<TornReduction>(*std::move(inner)));
    ASSERT_TRUE(communicator.ok());
    const auto stream = MakeStream(machine, rendezvous);
    Buffer memory =
        machine.memory(rendezvous.rank()).Allocate(sizeof(SmallReduction), "words", PageBacking::kOnCreation).value();
    auto* const reduction = memory.as<SmallReduction>();
    reduction->sums[SmallReduction::kArrivals] = 1;
    ASSERT_TRUE((*communicator)->AllReduceSmall(reduction, *stream).ok());
    Meet(rendezvous);  // An abort may refuse a call that comes after it.
    const absl::Status status = rendezvous.rank() == 0 ? Synchronize(*stream) : absl::OkStatus();
    if (rendezvous.rank() == 0) {
      EXPECT_EQ(status, absl::DataLossError("torn"));
      EXPECT_EQ(reduction->sums[SmallReduction::kArrivals], 1);
      EXPECT_EQ(reduction->sums[0], 0);
      (*communicator)->Abort(status);
    }
    Meet(rendezvous);
    if (rendezvous.rank() == 1) {
      EXPECT_EQ(Synchronize(*stream), AbortedBy(0, absl::StatusCode::kDataLoss, "aborted: torn"));
      EXPECT_EQ(reduction->sums[SmallReduction::kArrivals], 1);
    }
    Meet(rendezvous);
  });
  machine.ExpectClean();
}

/// What a call of CUDA that fails does to the only rank that makes any.
class StagedCudaFailure : public testing::TestWithParam<const char*> {};

TEST_P(StagedCudaFailure, EndsTheCommunicatorAndGivesPeersNothing) {
  StagedMachine machine(2, CreateInprocInner);
  RunAllocated(machine, kShort, [&](Communicator& communicator, Rendezvous& rendezvous, CudaStream& stream) {
    if (rendezvous.rank() == 0) {
      machine.cuda.FailCall(GetParam(), 1, FakeCuda::kIllegalAddress);
      const absl::Status exchanged = communicator.Exchange(0, 0, {}, stream);
      while (communicator.AsyncStatus().ok()) std::this_thread::yield();
      // The caller's own stream has not failed; it fails with the communicator, whichever call finds out.
      const absl::Status status = exchanged.ok() ? Synchronize(stream) : exchanged;
      EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
      EXPECT_THAT(std::string(status.message()),
                  testing::AllOf(HasSubstr("staging: "), HasSubstr("cudaErrorIllegalAddress")));
      EXPECT_EQ(communicator.AsyncStatus().code(), absl::StatusCode::kInternal);
      EXPECT_FALSE(communicator.Exchange(1, 0, {}, stream).ok());
    }
    Meet(rendezvous);
    if (rendezvous.rank() == 1) {
      ASSERT_TRUE(communicator.Exchange(0, 0, {}, stream).ok());
      ASSERT_TRUE(communicator.AwaitSlices(0, 0, stream).ok());
      EXPECT_EQ(Synchronize(stream), absl::DeadlineExceededError(
                                         "AwaitSlices of bucket 0, micro-step 0: rank 0 did not arrive within 150ms"));
    }
  });
}

INSTANTIATE_TEST_SUITE_P(, StagedCudaFailure, testing::Values("MemcpyAsync", "EventSynchronize", "StreamWaitValue"));

TEST(StagedCommunicatorTest, ADeviceThatFaultsEndsTheCommunicator) {
  StagedMachine machine(2, CreateInprocInner, {.devices = 2});
  RunAllocated(machine, kLong, [&](Communicator& communicator, Rendezvous& rendezvous, CudaStream& stream) {
    if (rendezvous.rank() == 1) machine.cuda.FailDevice(1, FakeCuda::kIllegalAddress);
    Meet(rendezvous);
    const absl::Status exchanged = communicator.Exchange(0, 0, {}, stream);
    absl::Status status = exchanged.ok() ? communicator.AwaitSlices(0, 0, stream) : exchanged;
    if (rendezvous.rank() == 1) {
      if (status.ok()) status = Synchronize(stream);
      EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
      communicator.Abort(status);
    } else if (status.ok()) {
      status = Synchronize(stream);
      EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
      EXPECT_THAT(std::string(status.message()), StartsWith("rank 1 aborted: "));
    }
  });
}

TEST(StagedCommunicatorTest, DestructionUnderWayEndsThisRankAndTheOthers) {
  StagedMachine machine(3, CreateInprocInner);
  machine.Run([&](Rendezvous& rendezvous) {
    auto communicator = machine.Create(rendezvous, kLong);
    ASSERT_TRUE(communicator.ok());
    ASSERT_TRUE((*communicator)->Allocate({.buckets = kBuckets}).ok());
    const auto stream = MakeStream(machine, rendezvous);
    if (rendezvous.rank() != 2) {
      ASSERT_TRUE((*communicator)->Exchange(0, 0, {}, *stream).ok());
      ASSERT_TRUE((*communicator)->Exchange(1, 0, {}, *stream).ok());
      ASSERT_TRUE((*communicator)->AwaitSlices(1, 0, *stream).ok());
      ASSERT_TRUE((*communicator)->Publish(0, 0, *stream).ok());
    }
    Meet(rendezvous);
    if (rendezvous.rank() == 0) {
      communicator->reset();
      EXPECT_FALSE(Synchronize(*stream).ok());
    } else {
      const absl::Status aborted =
          AbortedBy(0, absl::StatusCode::kCancelled,
                    "aborted: its staged communicator was destroyed while operations were under way");
      if (rendezvous.rank() == 1) {
        EXPECT_EQ(Synchronize(*stream), aborted);
      }
      while ((*communicator)->AsyncStatus().ok()) std::this_thread::yield();
      EXPECT_EQ((*communicator)->AsyncStatus(), aborted);
    }
    Meet(rendezvous);
  });
  machine.ExpectClean();
}

TEST(StagedCommunicatorTest, AStreamOfAnotherDeviceIsRefused) {
  StagedMachine machine(1, CreateInprocInner, {.devices = 2});
  RunAllocated(machine, kLong, [&](Communicator& communicator, Rendezvous&, CudaStream&) {
    const auto other = CudaStream::Create({&machine.cuda, 1}, "other").value();
    EXPECT_EQ(communicator.Exchange(0, 0, {}, *other),
              absl::InvalidArgumentError("Exchange: stream of device 1, the communicator is on device 0"));
  });
}

}  // namespace
}  // namespace shardstep
