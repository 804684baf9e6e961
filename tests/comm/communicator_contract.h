#ifndef SHARDSTEP_TESTS_COMM_COMMUNICATOR_CONTRACT_H_
#define SHARDSTEP_TESTS_COMM_COMMUNICATOR_CONTRACT_H_

/// What every communicator promises, judged by serial loops. A backend binds it in a file of its own:
///   INSTANTIATE_TEST_SUITE_P(Inproc, CommunicatorContract, testing::Values(ContractBackend{...}), BackendName);
/// Backends whose traits say joins_hosts bind JoiningContract of joining_contract.h too, with the same ContractBackend.
///
/// Ranks that are threads: `run` is RunRankThreads (rank_threads.h). Ranks that are processes: main is MpiTestMain
/// (mpi_main.h), which makes the process's rendezvous before the suite is instantiated; `run` calls its body once, with
/// that rendezvous, and `create` is collective over the ranks of mpirun, of which there may be 1 to 4. Every test makes
/// and destroys a communicator of its own; a test that fails on one rank may leave the others to their deadlines. See
/// shm_communicator_test.cc for all of it. Messages have to name ranks as the rendezvous numbers them. A backend whose
/// streams are no host streams brings a ContractDevice.

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/rank_list.h"
#include "shardstep/comm/rendezvous.h"
#include "shardstep/tests/comm/contract_device.h"
#include "shardstep/tests/comm/contract_trainer.h"
#include "shardstep/tests/comm/delaying_communicator.h"

namespace shardstep {

struct ContractBackend {
  std::string name;
  /// Runs the body as every rank that lives in this process (all of them as threads, or one under mpirun).
  std::function<void(const std::function<void(Rendezvous&)>&)> run;
  std::function<absl::StatusOr<std::unique_ptr<Communicator>>(Rendezvous&, absl::Duration wait_deadline)> create;
  /// The device of a rank, for as long as `run` runs its body. Empty: the host.
  std::function<std::unique_ptr<ContractDevice>(int rank)> device;
  /// Ranks need not come to operations of all kinds in the same order.
  bool kinds_may_cross = true;
};

inline std::string BackendName(const testing::TestParamInfo<ContractBackend>& info) { return info.param.name; }

/// What tests of both suites do.
class ContractFixture : public testing::TestWithParam<ContractBackend> {
 protected:
  using Body = std::function<void(Communicator&, Rendezvous&)>;

  static constexpr absl::Duration kLong = absl::Minutes(1);
  static constexpr absl::Duration kShort = absl::Milliseconds(150);

  /// GetParam().run, with the device of each rank.
  void Run(const std::function<void(Rendezvous&)>& body) {
    GetParam().run([&](Rendezvous& rendezvous) {
      const auto brought = GetParam().device ? GetParam().device(rendezvous.rank()) : nullptr;
      device_of_thread() = brought != nullptr ? brought.get() : &HostContractDevice();
      body(rendezvous);
    });
  }

  /// Of the rank whose thread calls.
  static ContractDevice& device() { return *device_of_thread(); }

  void RunCreated(absl::Duration wait_deadline, const Body& body) {
    Run([&](Rendezvous& rendezvous) {
      auto communicator = GetParam().create(rendezvous, wait_deadline);
      ASSERT_TRUE(communicator.ok()) << communicator.status();
      body(**communicator, rendezvous);
      Meet(rendezvous);
    });
  }

  /// With ContractBuckets.
  void RunAllocated(absl::Duration wait_deadline, const Body& body) {
    RunCreated(wait_deadline, [&](Communicator& communicator, Rendezvous& rendezvous) {
      const auto buckets = ContractBuckets(communicator.world_size());
      const absl::Status status = communicator.Allocate({.buckets = buckets});
      ASSERT_TRUE(status.ok()) << status;
      body(communicator, rendezvous);
    });
  }

  static void Meet(Rendezvous& rendezvous) {
    const absl::Status status = rendezvous.AllGatherBytes("test", "", kLong).status();
    ASSERT_TRUE(status.ok()) << status;
  }

  /// The sticky error of one operation on a stream of its own.
  static absl::Status Await(const std::function<absl::Status(Stream&)>& enqueue) {
    const auto stream = device().MakeStream();
    const absl::Status enqueued = enqueue(*stream);
    return enqueued.ok() ? stream->Synchronize(stream->Record()) : enqueued;
  }

  /// A wait of every rank that ends only when the last one has taken part, which it does not: in an exchange of bucket
  /// 0, whose slices the others await, while it waits for them elsewhere. Of one rank: OK.
  static absl::Status AwaitTheLastRank(Communicator& communicator) {
    if (communicator.world_size() == 1) return absl::OkStatus();
    if (communicator.rank() == communicator.world_size() - 1) {
      if (!GetParam().kinds_may_cross) return AwaitTheEnd(communicator);
      SmallReduction reduction;
      return Await([&](Stream& s) { return communicator.AllReduceSmall(&reduction, s); });
    }
    const absl::Status exchanged = Await([&](Stream& s) { return communicator.Exchange(0, 0, {}, s); });
    if (!exchanged.ok()) return exchanged;
    return Await([&](Stream& s) { return communicator.AwaitSlices(0, 0, s); });
  }

  static absl::Status AwaitTheEnd(Communicator& communicator) {
    while (communicator.AsyncStatus().ok()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return communicator.AsyncStatus();
  }

  /// `gap`: what the weights are outside of the buckets.
  static void TrainAndCompare(Communicator& communicator, const ContractLoad& load, int64_t steps, uint8_t gap = 0) {
    ContractTrainer trainer(communicator, load, device());
    for (int64_t step = 0; step < steps; ++step) {
      const absl::Status status = trainer.Step(step);
      ASSERT_TRUE(status.ok()) << "step " << step << ": " << status;
      const auto expected = SerialWeights(load, communicator.world_size(), load.micro_steps * (step + 1), gap);
      ASSERT_EQ(FirstWrongByte(communicator, expected), -1) << "step " << step;
    }
  }

 private:
  static ContractDevice*& device_of_thread() {
    thread_local ContractDevice* device = &HostContractDevice();
    return device;
  }
};

class CommunicatorContract : public ContractFixture {};

TEST_P(CommunicatorContract, ArenasAreZeroFilledAndSized) {
  RunAllocated(kLong, [](Communicator& communicator, Rendezvous&) {
    const auto buckets = ContractBuckets(communicator.world_size());
    EXPECT_EQ(communicator.gradients().size_bytes, GradientArenaBytes(buckets, communicator.world_size()));
    EXPECT_EQ(communicator.weights().size_bytes, WeightArenaBytes(buckets, communicator.world_size()));
    for (const BufferView& arena : {communicator.gradients(), communicator.weights()}) {
      for (int64_t i = 0; i < arena.size_bytes; ++i) ASSERT_EQ(arena.as<uint8_t>()[i], 0) << i;
    }
  });
}

TEST_P(CommunicatorContract, ManyStepsAndMicroStepsOfMixedTypesEqualTheSerialLoop) {
  RunAllocated(kLong, [](Communicator& communicator, Rendezvous& rendezvous) {
    TrainAndCompare(communicator, {.buckets = ContractBuckets(communicator.world_size()), .micro_steps = 3}, 8);
    Meet(rendezvous);
  });
}

TEST_P(CommunicatorContract, PrivateWeightsAreTheSameButOfOneRankEach) {
  RunCreated(kLong, [](Communicator& communicator, Rendezvous& rendezvous) {
    const auto buckets = ContractBuckets(communicator.world_size());
    const absl::Status status = communicator.Allocate({.buckets = buckets, .private_weights = true});
    ASSERT_TRUE(status.ok()) << status;
    TrainAndCompare(communicator, {.buckets = buckets, .micro_steps = 2}, 4);
    Meet(rendezvous);
    const BufferView weights = communicator.weights();
    const auto mark = static_cast<uint8_t>(communicator.rank() + 1);
    std::memset(weights.data, mark, static_cast<size_t>(weights.size_bytes));
    Meet(rendezvous);
    for (int64_t i = 0; i < weights.size_bytes; ++i) ASSERT_EQ(weights.as<uint8_t>()[i], mark) << i;
  });
}

TEST_P(CommunicatorContract, TheFirstDestinationIsTheOwnCopy) {
  for (const bool private_weights : {false, true}) {
    RunCreated(kLong, [&](Communicator& communicator, Rendezvous&) {
      const auto buckets = ContractBuckets(communicator.world_size());
      const absl::Status status = communicator.Allocate({.buckets = buckets, .private_weights = private_weights});
      ASSERT_TRUE(status.ok()) << status;
      for (int b = 0; b < 5; ++b) {
        const BucketExtent& bucket = buckets[static_cast<size_t>(b)];
        const int64_t offset =
            bucket.weight_begin_byte + communicator.rank() * bucket.shard_elements * SizeBytes(bucket.weight_dtype);
        ASSERT_GE(communicator.Destinations(b).size(), 1u);
        EXPECT_EQ(communicator.Destinations(b)[0], communicator.weights().data + offset) << "bucket " << b;
      }
    });
  }
}

// S1: one rank late at random before any operation, and all of them.
TEST_P(CommunicatorContract, RandomDelaysChangeNoBit) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    Run([&](Rendezvous& rendezvous) {
      auto inner = GetParam().create(rendezvous, kLong);
      ASSERT_TRUE(inner.ok()) << inner.status();
      const int late_rank = seed % 2 == 0 ? -1 : static_cast<int>(seed) % rendezvous.world_size();
      DelayingCommunicator communicator(*std::move(inner), {.seed = seed, .max_delay_us = 400, .rank = late_rank});
      const auto buckets = ContractBuckets(communicator.world_size());
      ASSERT_TRUE(communicator.Allocate({.buckets = buckets, .private_weights = seed > 3}).ok());
      TrainAndCompare(communicator, {.buckets = buckets, .micro_steps = 2}, 3);
      Meet(rendezvous);
    });
  }
}

TEST_P(CommunicatorContract, AllReduceSmallEqualsTheSerialLoop) {
  RunCreated(kLong, [](Communicator& communicator, Rendezvous&) {
    const auto contribution = [](int rank, int round) {
      SmallReduction reduction;
      for (size_t i = 0; i < reduction.sums.size(); ++i) {
        reduction.sums[i] = (int64_t{1} << 58) / (rank + 1) - round * 1000003 - static_cast<int64_t>(i) * (rank - 2);
      }
      for (size_t i = 0; i < reduction.minima.size(); ++i) {
        reduction.minima[i] =
            static_cast<uint64_t>(rank * 31 + round * 17 + static_cast<int>(i) * 13) * 0x9e3779b9u % 1009;
      }
      reduction.minima[0] = ~uint64_t{0};
      return reduction;
    };
    const auto stream = device().MakeStream();
    for (int round = 0; round < 64; ++round) {
      SmallReduction expected = contribution(0, round);
      for (int rank = 1; rank < communicator.world_size(); ++rank) {
        const SmallReduction other = contribution(rank, round);
        for (size_t i = 0; i < other.sums.size(); ++i) expected.sums[i] += other.sums[i];
        for (size_t i = 0; i < other.minima.size(); ++i) {
          expected.minima[i] = std::min(expected.minima[i], other.minima[i]);
        }
      }
      SmallReduction mine = contribution(communicator.rank(), round);
      ASSERT_TRUE(communicator.AllReduceSmall(&mine, *stream).ok());
      const absl::Status status = stream->Synchronize(stream->Record());
      ASSERT_TRUE(status.ok()) << status;
      ASSERT_EQ(mine.sums, expected.sums) << "round " << round;
      ASSERT_EQ(mine.minima, expected.minima) << "round " << round;
    }
  });
}

// R9, S1: the deadline names operation, bucket, micro-step or step, and exactly the ranks that did not come. It may be
// the end of the communicator.
TEST_P(CommunicatorContract, DeadlinesNameTheAbsentRanks) {
  using Operation = std::function<absl::Status(Communicator&, Stream&)>;
  const auto expect = [&](const Operation& arrive, const Operation& await, absl::string_view operation) {
    RunAllocated(kShort, [&](Communicator& communicator, Rendezvous& rendezvous) {
      const int first_absent = communicator.world_size() / 2;
      std::vector<int> absent;
      for (int rank = first_absent; rank < communicator.world_size(); ++rank) absent.push_back(rank);
      if (communicator.rank() < first_absent) {
        if (arrive != nullptr) {
          ASSERT_TRUE(Await([&](Stream& s) { return arrive(communicator, s); }).ok());
        }
        const absl::Status status = Await([&](Stream& s) { return await(communicator, s); });
        EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
        EXPECT_EQ(status.message(), absl::StrCat(operation, ": ", RankList(absent), " did not arrive within 150ms"));
      }
      Meet(rendezvous);
    });
  };
  expect([](Communicator& c, Stream& s) { return c.Exchange(1, 0, {}, s); },
         [](Communicator& c, Stream& s) { return c.AwaitSlices(1, 0, s); }, "AwaitSlices of bucket 1, micro-step 0");
  expect([](Communicator& c, Stream& s) { return c.Publish(3, 0, s); },
         [](Communicator& c, Stream& s) { return c.AwaitPublished(3, 0, s); }, "AwaitPublished of bucket 3, step 0");
  expect(
      nullptr,
      [](Communicator& c, Stream& s) {
        thread_local SmallReduction reduction;
        return c.AllReduceSmall(&reduction, s);
      },
      "AllReduceSmall number 0");
}

// Where slices do not persist gradients are free once they are sent, and that owners have a copy shows in no release.
TEST_P(CommunicatorContract, TheDeadlineOfAReleaseNamesTheAbsentRanks) {
  RunAllocated(kShort, [](Communicator& communicator, Rendezvous& rendezvous) {
    const int last = communicator.world_size() - 1;
    if (communicator.traits().slices_persist && communicator.rank() != last) {
      ASSERT_TRUE(Await([&](Stream& s) { return communicator.Exchange(1, 0, {}, s); }).ok());
      ASSERT_TRUE(Await([&](Stream& s) { return communicator.Release(1, 0, s); }).ok());
      EXPECT_EQ(Await([&](Stream& s) { return communicator.AwaitReleased(1, 0, s); }),
                absl::DeadlineExceededError(absl::StrCat("AwaitReleased of bucket 1, micro-step 0: rank ", last,
                                                         " did not arrive within 150ms")));
    }
    Meet(rendezvous);
  });
}

TEST_P(CommunicatorContract, AbortFromAnotherThreadEndsEveryWaitOfEveryRank) {
  RunAllocated(kLong, [](Communicator& communicator, Rendezvous& rendezvous) {
    const int last = communicator.world_size() - 1;
    const absl::Status aborted = AbortedBy(last, absl::StatusCode::kResourceExhausted, "aborted: out of coffee");
    EXPECT_TRUE(communicator.AsyncStatus().ok());
    std::thread aborter;
    if (communicator.rank() == last) {
      aborter = std::thread([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        communicator.Abort(absl::ResourceExhaustedError("out of coffee"));
      });
    }
    const absl::Status waiting = AwaitTheLastRank(communicator);
    if (aborter.joinable()) aborter.join();
    if (communicator.world_size() > 1) {
      EXPECT_EQ(waiting, aborted);
    }
    EXPECT_EQ(communicator.AsyncStatus().message(), absl::StrCat("rank ", last, " aborted: out of coffee"));
    EXPECT_EQ(CauseOf(communicator.AsyncStatus()), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(communicator.AsyncStatus(), aborted);
    Meet(rendezvous);
    communicator.Abort(absl::InternalError("a later reason"));
    Meet(rendezvous);
    SmallReduction reduction;
    EXPECT_EQ(Await([&](Stream& s) { return communicator.AllReduceSmall(&reduction, s); }), aborted);
    // Even what has arrived: after an abort nothing is to be relied upon.
    EXPECT_EQ(Await([&](Stream& s) { return communicator.AwaitPublished(0, 0, s); }), aborted);
  });
}

TEST_P(CommunicatorContract, ALongReasonOfAbortIsCutNotLost) {
  RunCreated(kLong, [](Communicator& communicator, Rendezvous& rendezvous) {
    if (communicator.rank() == 0) communicator.Abort(absl::InternalError(std::string(100'000, 'x')));
    Meet(rendezvous);
    for (int i = 0; i < 10'000 && communicator.AsyncStatus().ok(); ++i) {  // news may take its time
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(communicator.AsyncStatus().code(), absl::StatusCode::kAborted);
    EXPECT_THAT(std::string(communicator.AsyncStatus().message()), testing::HasSubstr("rank 0 aborted: xxxxxxxx"));
  });
}

TEST_P(CommunicatorContract, NoDeadlineRunsWhileARankIsAway) {
  RunAllocated(kShort, [](Communicator& communicator, Rendezvous& rendezvous) {
    const bool is_last = communicator.rank() == communicator.world_size() - 1;
    if (is_last) communicator.SetAway(absl::Hours(1));
    Meet(rendezvous);
    if (is_last) std::this_thread::sleep_for(std::chrono::milliseconds(600));  // four deadlines
    ASSERT_TRUE(Await([&](Stream& s) { return communicator.Exchange(0, 0, {}, s); }).ok());
    const absl::Status status = Await([&](Stream& s) { return communicator.AwaitSlices(0, 0, s); });
    EXPECT_TRUE(status.ok()) << status;
  });
}

TEST_P(CommunicatorContract, DeadlinesRunAgainAfterTheReturn) {
  RunAllocated(kShort, [](Communicator& communicator, Rendezvous& rendezvous) {
    const bool is_last = communicator.rank() == communicator.world_size() - 1;
    if (is_last) communicator.SetAway(absl::Hours(1));
    Meet(rendezvous);
    if (is_last) communicator.SetAway(absl::ZeroDuration());
    Meet(rendezvous);
    if (communicator.world_size() == 1) return;  // waits for nobody
    EXPECT_EQ(AwaitTheLastRank(communicator).code(), absl::StatusCode::kDeadlineExceeded);
  });
}

TEST_P(CommunicatorContract, CallsOutOfOrderAndBadArgumentsAreRefused) {
  RunCreated(kLong, [](Communicator& communicator, Rendezvous&) {
    const auto stream = device().MakeCallerStream();
    const auto buckets = ContractBuckets(communicator.world_size());
    EXPECT_EQ(communicator.Exchange(0, 0, {}, *stream), absl::FailedPreconditionError("Exchange: before Allocate"));
    ASSERT_TRUE(communicator.Allocate({.buckets = buckets}).ok());
    EXPECT_EQ(communicator.Allocate({}).code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(communicator.Exchange(5, 0, {}, *stream),
              absl::InvalidArgumentError("Exchange: bucket = 5, there are 5"));
    EXPECT_EQ(communicator.Publish(-1, 0, *stream).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(communicator.AwaitSlices(0, -1, *stream).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_TRUE(stream->status().ok()) << stream->status();
    const Slice foreign;
    EXPECT_EQ(communicator.Exchange(0, 0, {&foreign, 1}, *stream).code(), absl::StatusCode::kInvalidArgument);
    ASSERT_TRUE(communicator.Exchange(0, 0, {}, *stream).ok());
    const absl::Status again = communicator.Exchange(0, 0, {}, *stream);
    EXPECT_EQ(again.ok() ? stream->status() : again,  // the call or the stream fails
              absl::FailedPreconditionError("Exchange of bucket 0, micro-step 0: micro-step 0 is already done"));
  });
}

TEST_P(CommunicatorContract, AForeignStreamIsRefused) {
  class ForeignStream : public Stream {
    Event Record() override { return {}; }
    void Wait(const Event&) override {}
    absl::Status Synchronize(const Event&) override { return absl::OkStatus(); }
    absl::Status status() const override { return absl::OkStatus(); }
    void Call(absl::string_view, std::function<void()>) override {}
  };
  RunAllocated(kLong, [](Communicator& communicator, Rendezvous&) {
    ForeignStream stream;
    SmallReduction reduction;
    EXPECT_EQ(communicator.Exchange(0, 0, {}, stream).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(communicator.AwaitPublished(0, 0, stream).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(communicator.AllReduceSmall(&reduction, stream).code(), absl::StatusCode::kInvalidArgument);
  });
}

// R5: refused before data moves, both ranks named.
TEST_P(CommunicatorContract, BucketsThatDifferBetweenRanksAreRefusedEverywhere) {
  RunCreated(kLong, [](Communicator& communicator, Rendezvous&) {
    auto buckets = ContractBuckets(communicator.world_size());
    const int last = communicator.world_size() - 1;
    if (communicator.rank() == last) buckets[1].shard_elements = 32;
    const absl::Status status = communicator.Allocate({.buckets = buckets});
    if (last == 0) return;
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()),
                testing::AllOf(testing::HasSubstr("bucket 1 differs: rank 0 has shard_elements = 64"),
                               testing::HasSubstr(absl::StrCat("rank ", last, " has 32"))));
  });
}

TEST_P(CommunicatorContract, OverlappingBucketsAreRefused) {
  RunCreated(kLong, [](Communicator& communicator, Rendezvous&) {
    const int64_t world_size = communicator.world_size();
    const BucketExtent buckets[] = {
        {.shard_elements = 1024},
        {.shard_elements = 8, .gradient_begin_byte = 2048 * world_size, .weight_begin_byte = 2048 * world_size - 64}};
    EXPECT_EQ(communicator.Allocate({.buckets = buckets}),
              absl::InvalidArgumentError(absl::StrCat("rank 0: bucket 1: weight_begin_byte = ", 2048 * world_size - 64,
                                                      " lies inside another bucket")));
  });
}

// O2: more than there is ends in one error on every rank, and nobody is killed.
TEST_P(CommunicatorContract, TooLittleMemoryIsAnErrorOnEveryRank) {
  RunCreated(kLong, [](Communicator& communicator, Rendezvous&) {
    const BucketExtent bucket{.shard_elements = (int64_t{1} << 46) / communicator.world_size()};
    const absl::Status status = communicator.Allocate({.buckets = {&bucket, 1}});
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("bytes"));
  });
}

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_COMM_COMMUNICATOR_CONTRACT_H_
