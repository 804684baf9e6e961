#ifndef SHARDSTEP_TESTS_COMM_COMMUNICATOR_CONTRACT_H_
#define SHARDSTEP_TESTS_COMM_COMMUNICATOR_CONTRACT_H_

/// What every communicator promises, judged by serial loops. A backend binds it in a file of its own:
///   INSTANTIATE_TEST_SUITE_P(Inproc, CommunicatorContract, testing::Values(ContractBackend{...}), BackendName);

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <algorithm>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/host_stream.h"
#include "shardstep/comm/rank_list.h"
#include "shardstep/comm/rendezvous.h"
#include "shardstep/tests/comm/delaying_communicator.h"

namespace shardstep {

struct ContractBackend {
  std::string name;
  /// Runs the body as every rank that lives in this process (all of them as threads, or one under mpirun).
  std::function<void(const std::function<void(Rendezvous&)>&)> run;
  std::function<absl::StatusOr<std::unique_ptr<Communicator>>(Rendezvous&, absl::Duration wait_deadline)> create;
};

inline std::string BackendName(const testing::TestParamInfo<ContractBackend>& info) { return info.param.name; }

class CommunicatorContract : public testing::TestWithParam<ContractBackend> {
 protected:
  using Body = std::function<void(Communicator&, Rendezvous&)>;

  static constexpr absl::Duration kLong = absl::Minutes(1);
  static constexpr absl::Duration kShort = absl::Milliseconds(150);
  /// Uneven, one empty, with a gap before the last.
  static std::vector<BucketExtent> Buckets(int world_size) {
    return {{0, 1024}, {1024 * world_size, 64}, {1088 * world_size, 0}, {1088 * world_size + 512, 2048}};
  }

  void RunCreated(absl::Duration wait_deadline, const Body& body) {
    GetParam().run([&](Rendezvous& rendezvous) {
      auto communicator = GetParam().create(rendezvous, wait_deadline);
      ASSERT_TRUE(communicator.ok()) << communicator.status();
      body(**communicator, rendezvous);
      Meet(rendezvous);
    });
  }

  void RunAllocated(absl::Duration wait_deadline, const Body& body) {
    RunCreated(wait_deadline, [&](Communicator& communicator, Rendezvous& rendezvous) {
      const absl::Status status = communicator.Allocate(Buckets(communicator.world_size()));
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
    ThreadStream stream;
    const absl::Status enqueued = enqueue(stream);
    return enqueued.ok() ? stream.Synchronize(stream.Record()) : enqueued;
  }

  static uint16_t Gradient(int rank, int64_t micro_step, int64_t element) {
    return static_cast<uint16_t>(rank * 7919 + micro_step * 104729 + element * 31 + 1);
  }
};

/// One rank of a training loop as the runtime orders it: gradients on the caller's thread, the rest on a stream.
/// The "update" is an integer sum, so that any lost, torn or early slice changes the weights.
class ContractTrainer {
 public:
  ContractTrainer(Communicator& communicator, std::vector<BucketExtent> buckets, int64_t micro_steps)
      : communicator_(communicator), buckets_(std::move(buckets)), micro_steps_(micro_steps) {
    for (const BucketExtent& bucket : buckets_) sums_.emplace_back(static_cast<size_t>(bucket.shard_elements));
  }

  using GradientFunction = uint16_t (*)(int rank, int64_t micro_step, int64_t element);

  absl::Status Step(int64_t step, GradientFunction gradient) {
    for (int64_t k = 0; k < micro_steps_; ++k) {
      for (int b = 0; b < bucket_count(); ++b)
        SHARDSTEP_RETURN_IF_ERROR(MicroStep(b, step * micro_steps_ + k, gradient));
    }
    SHARDSTEP_RETURN_IF_ERROR(communicator_.AllReduceSmall(&reduction_, update_));
    for (int b = 0; b < bucket_count(); ++b) {
      update_.Enqueue("write", [this, b] { return WriteShard(b); });
      SHARDSTEP_RETURN_IF_ERROR(communicator_.Publish(b, step, update_));
    }
    for (int b = 0; b < bucket_count(); ++b) SHARDSTEP_RETURN_IF_ERROR(communicator_.AwaitPublished(b, step, caller_));
    SHARDSTEP_RETURN_IF_ERROR(caller_.status());
    return update_.Synchronize(update_.Record());
  }

 private:
  int bucket_count() const { return static_cast<int>(buckets_.size()); }

  absl::Status MicroStep(int b, int64_t micro_step, GradientFunction gradient) {
    if (micro_step > 0) SHARDSTEP_RETURN_IF_ERROR(communicator_.AwaitReleased(b, micro_step - 1, caller_));
    SHARDSTEP_RETURN_IF_ERROR(caller_.status());
    const BucketExtent& bucket = buckets_[static_cast<size_t>(b)];
    auto* data = communicator_.gradients().as<Bf16>() + bucket.begin_element;
    for (int64_t i = 0; i < bucket.shard_elements * communicator_.world_size(); ++i) {
      data[i].bits = gradient(communicator_.rank(), micro_step, bucket.begin_element + i);
    }
    SHARDSTEP_RETURN_IF_ERROR(communicator_.Exchange(b, micro_step, caller_));
    SHARDSTEP_RETURN_IF_ERROR(communicator_.AwaitSlices(b, micro_step, update_));
    update_.Enqueue("reduce", [this, b, micro_step] { return Reduce(b, micro_step); });
    return communicator_.Release(b, micro_step, update_);
  }

  absl::Status Reduce(int b, int64_t micro_step) {
    std::vector<uint16_t>& sums = sums_[static_cast<size_t>(b)];
    const absl::Span<const Slice> slices = communicator_.slices(b, micro_step);
    if (slices.size() != static_cast<size_t>(communicator_.world_size())) return absl::InternalError("slice count");
    for (size_t rank = 0; rank < slices.size(); ++rank) {
      if (slices[rank].rank != static_cast<int>(rank)) return absl::InternalError("slice order");
      for (size_t i = 0; i < sums.size(); ++i) {
        sums[i] = static_cast<uint16_t>(sums[i] * 3 + slices[rank].data[i].bits);
      }
    }
    return absl::OkStatus();
  }

  absl::Status WriteShard(int b) {
    const std::vector<uint16_t>& sums = sums_[static_cast<size_t>(b)];
    for (Bf16* destination : communicator_.Destinations(b)) {
      for (size_t i = 0; i < sums.size(); ++i) destination[i].bits = sums[i];
    }
    return absl::OkStatus();
  }

  Communicator& communicator_;
  const std::vector<BucketExtent> buckets_;
  const int64_t micro_steps_;
  std::vector<std::vector<uint16_t>> sums_;
  SmallReduction reduction_;
  InlineStream caller_;
  ThreadStream update_;
};

/// What all weights have to be after `micro_steps` micro-steps in all: the same recurrence without ranks. Elements that
/// belong to no bucket stay zero.
inline std::vector<uint16_t> SerialWeights(const std::vector<BucketExtent>& buckets, int world_size,
                                           int64_t micro_steps, ContractTrainer::GradientFunction gradient) {
  const BucketExtent& last = buckets.back();
  std::vector<uint16_t> weights(static_cast<size_t>(last.begin_element + last.shard_elements * world_size));
  for (const BucketExtent& bucket : buckets) {
    for (int64_t e = bucket.begin_element; e < bucket.begin_element + bucket.shard_elements * world_size; ++e) {
      uint16_t& weight = weights[static_cast<size_t>(e)];
      for (int64_t k = 0; k < micro_steps; ++k) {
        for (int rank = 0; rank < world_size; ++rank) weight = static_cast<uint16_t>(weight * 3 + gradient(rank, k, e));
      }
    }
  }
  return weights;
}

inline int64_t FirstWrongWeight(Communicator& communicator, const std::vector<uint16_t>& expected) {
  const auto* weights = communicator.weights().as<Bf16>();
  for (size_t i = 0; i < expected.size(); ++i) {
    if (weights[i].bits != expected[i]) return static_cast<int64_t>(i);
  }
  return -1;
}

TEST_P(CommunicatorContract, ArenasAreZeroFilledAndSized) {
  RunAllocated(kLong, [](Communicator& communicator, Rendezvous&) {
    const auto buckets = Buckets(communicator.world_size());
    const int64_t bytes =
        (buckets.back().begin_element + buckets.back().shard_elements * communicator.world_size()) * 2;
    for (const BufferView& arena : {communicator.gradients(), communicator.weights()}) {
      ASSERT_EQ(arena.size_bytes, bytes);
      for (int64_t i = 0; i < bytes; ++i) ASSERT_EQ(arena.as<uint8_t>()[i], 0) << i;
    }
  });
}

TEST_P(CommunicatorContract, ManyStepsAndMicroStepsEqualTheSerialLoop) {
  RunAllocated(kLong, [](Communicator& communicator, Rendezvous& rendezvous) {
    const auto buckets = Buckets(communicator.world_size());
    ContractTrainer trainer(communicator, buckets, 3);
    for (int64_t step = 0; step < 8; ++step) {
      const absl::Status status = trainer.Step(step, &Gradient);
      ASSERT_TRUE(status.ok()) << status;
      const auto expected = SerialWeights(buckets, communicator.world_size(), 3 * (step + 1), &Gradient);
      EXPECT_EQ(FirstWrongWeight(communicator, expected), -1) << "step " << step;
    }
    Meet(rendezvous);
  });
}

// S1: one rank late at random before any operation, and all of them.
TEST_P(CommunicatorContract, RandomDelaysChangeNoBit) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    GetParam().run([&](Rendezvous& rendezvous) {
      auto inner = GetParam().create(rendezvous, kLong);
      ASSERT_TRUE(inner.ok()) << inner.status();
      const int late_rank = seed % 2 == 0 ? -1 : static_cast<int>(seed) % rendezvous.world_size();
      DelayingCommunicator communicator(*std::move(inner), {.seed = seed, .max_delay_us = 400, .rank = late_rank});
      const auto buckets = Buckets(communicator.world_size());
      ASSERT_TRUE(communicator.Allocate(buckets).ok());
      ContractTrainer trainer(communicator, buckets, 2);
      for (int64_t step = 0; step < 3; ++step) {
        const absl::Status status = trainer.Step(step, &Gradient);
        ASSERT_TRUE(status.ok()) << status;
        const auto expected = SerialWeights(buckets, communicator.world_size(), 2 * (step + 1), &Gradient);
        EXPECT_EQ(FirstWrongWeight(communicator, expected), -1) << "seed " << seed << ", step " << step;
      }
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
    ThreadStream stream;
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
      ASSERT_TRUE(communicator.AllReduceSmall(&mine, stream).ok());
      const absl::Status status = stream.Synchronize(stream.Record());
      ASSERT_TRUE(status.ok()) << status;
      ASSERT_EQ(mine.sums, expected.sums) << "round " << round;
      ASSERT_EQ(mine.minima, expected.minima) << "round " << round;
    }
  });
}

// R9, S1: the deadline names operation, bucket, micro-step or step, and exactly the ranks that did not come.
TEST_P(CommunicatorContract, DeadlinesNameTheAbsentRanks) {
  RunAllocated(kShort, [](Communicator& communicator, Rendezvous& rendezvous) {
    const int first_absent = communicator.world_size() / 2;
    std::vector<int> absent;
    for (int rank = first_absent; rank < communicator.world_size(); ++rank) absent.push_back(rank);
    const std::string ending = absl::StrCat(": ", RankList(absent), " did not arrive within 150ms");
    const bool present = communicator.rank() < first_absent;
    const auto expect = [&](const std::function<absl::Status(Stream&)>& arrive,
                            const std::function<absl::Status(Stream&)>& await, absl::string_view operation) {
      if (present) {
        if (arrive != nullptr) {
          ASSERT_TRUE(Await(arrive).ok());
        }
        const absl::Status status = Await(await);
        EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
        EXPECT_EQ(status.message(), absl::StrCat(operation, ending));
      }
      Meet(rendezvous);
    };
    expect([&](Stream& s) { return communicator.Exchange(1, 0, s); },
           [&](Stream& s) { return communicator.AwaitSlices(1, 0, s); }, "AwaitSlices of bucket 1, micro-step 0");
    expect([&](Stream& s) { return communicator.Release(3, 0, s); },
           [&](Stream& s) { return communicator.AwaitReleased(3, 0, s); }, "AwaitReleased of bucket 3, micro-step 0");
    expect([&](Stream& s) { return communicator.Publish(0, 4, s); },
           [&](Stream& s) { return communicator.AwaitPublished(0, 4, s); }, "AwaitPublished of bucket 0, step 4");
    SmallReduction reduction;
    expect(
        nullptr, [&](Stream& s) { return communicator.AllReduceSmall(&reduction, s); }, "AllReduceSmall number 0");
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
    const absl::Status waiting = Await([&](Stream& s) { return communicator.AwaitSlices(0, 0, s); });
    if (aborter.joinable()) aborter.join();
    EXPECT_EQ(waiting, aborted);
    EXPECT_EQ(waiting.message(), absl::StrCat("rank ", last, " aborted: out of coffee"));
    EXPECT_EQ(CauseOf(waiting), absl::StatusCode::kResourceExhausted);
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
    ASSERT_TRUE(Await([&](Stream& s) { return communicator.Exchange(0, 0, s); }).ok());
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
    EXPECT_EQ(Await([&](Stream& s) { return communicator.AwaitSlices(0, 0, s); }).code(),
              absl::StatusCode::kDeadlineExceeded);
  });
}

TEST_P(CommunicatorContract, CallsOutOfOrderAndBadArgumentsAreRefused) {
  RunCreated(kLong, [](Communicator& communicator, Rendezvous&) {
    InlineStream stream;
    EXPECT_EQ(communicator.Exchange(0, 0, stream), absl::FailedPreconditionError("Exchange: before Allocate"));
    ASSERT_TRUE(communicator.Allocate(Buckets(communicator.world_size())).ok());
    EXPECT_EQ(communicator.Allocate({}).code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(communicator.Exchange(4, 0, stream), absl::InvalidArgumentError("Exchange: bucket = 4, there are 4"));
    EXPECT_EQ(communicator.Publish(-1, 0, stream).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(communicator.AwaitSlices(0, -1, stream).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_TRUE(stream.status().ok()) << stream.status();
    ASSERT_TRUE(communicator.Exchange(0, 0, stream).ok());
    ASSERT_TRUE(communicator.Exchange(0, 0, stream).ok());  // enqueued; the stream fails
    EXPECT_EQ(stream.status(),
              absl::FailedPreconditionError("Exchange of bucket 0, micro-step 0: micro-step 0 is already done"));
  });
}

TEST_P(CommunicatorContract, AForeignStreamIsRefused) {
  class ForeignStream : public Stream {
    Event Record() override { return {}; }
    void Wait(const Event&) override {}
    absl::Status Synchronize(const Event&) override { return absl::OkStatus(); }
    absl::Status status() const override { return absl::OkStatus(); }
  };
  RunAllocated(kLong, [](Communicator& communicator, Rendezvous&) {
    ForeignStream stream;
    SmallReduction reduction;
    EXPECT_EQ(communicator.AwaitSlices(0, 0, stream).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(communicator.AllReduceSmall(&reduction, stream).code(), absl::StatusCode::kInvalidArgument);
  });
}

// R5: refused before data moves, both ranks named.
TEST_P(CommunicatorContract, BucketsThatDifferBetweenRanksAreRefusedEverywhere) {
  RunCreated(kLong, [](Communicator& communicator, Rendezvous&) {
    auto buckets = Buckets(communicator.world_size());
    const int last = communicator.world_size() - 1;
    if (communicator.rank() == last) buckets[1].shard_elements = 32;
    const absl::Status status = communicator.Allocate(buckets);
    if (last == 0) return;
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()),
                testing::AllOf(testing::HasSubstr("bucket 1 differs"), testing::HasSubstr("rank 0 has"),
                               testing::HasSubstr(absl::StrCat("rank ", last, " has"))));
  });
}

TEST_P(CommunicatorContract, OverlappingBucketsAreRefused) {
  RunCreated(kLong, [](Communicator& communicator, Rendezvous&) {
    const absl::Status status = communicator.Allocate({{0, 1024}, {1023 * communicator.world_size(), 8}});
    EXPECT_EQ(status, absl::InvalidArgumentError(absl::StrCat(
                          "rank 0: bucket 1: begins at ", 1023 * communicator.world_size(), ", inside another one")));
  });
}

// O2: more than there is ends in one error on every rank, and nobody is killed.
TEST_P(CommunicatorContract, TooLittleMemoryIsAnErrorOnEveryRank) {
  RunCreated(kLong, [](Communicator& communicator, Rendezvous&) {
    const absl::Status status = communicator.Allocate({{0, (int64_t{1} << 46) / communicator.world_size()}});
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("bytes"));
  });
}

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_COMM_COMMUNICATOR_CONTRACT_H_
