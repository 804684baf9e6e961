// The optimizer's contract with its caller: order of calls, refusals, whole-model access, memory, checkpoints.
#include "shardstep/runtime/sharded_optimizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/tests/comm/rank_threads.h"
#include "training_job.h"

namespace shardstep {
namespace {

using ::testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

std::unique_ptr<ShardedOptimizer> MakeOptimizer(Rendezvous& rendezvous, const OptimizerOptions& options,
                                                std::vector<ParameterSpec> parameters) {
  auto communicator = CreateInprocCommunicator(rendezvous, {.wait_deadline = options.wait_deadline});
  EXPECT_TRUE(communicator.ok()) << communicator.status();
  auto optimizer = ShardedOptimizer::Create(options, std::move(parameters), *std::move(communicator), &rendezvous);
  EXPECT_TRUE(optimizer.ok()) << optimizer.status();
  return *std::move(optimizer);
}

void InitializeToOnes(ShardedOptimizer& optimizer) {
  const absl::Status status = optimizer.Initialize(
      [](int, int64_t, absl::Span<float> values) { std::fill(values.begin(), values.end(), 1.0f); });
  ASSERT_TRUE(status.ok()) << status;
}

// A step without gradients; the first error of its calls, whichever of them meets it.
absl::Status EmptyStep(ShardedOptimizer& optimizer) {
  SHARDSTEP_RETURN_IF_ERROR(optimizer.EndMicroStep());
  SHARDSTEP_RETURN_IF_ERROR(optimizer.Step({.learning_rate = 0.1}));
  return optimizer.FinishStep().status();
}

const std::vector<ParameterSpec> kPair = {{.name = "a", .shape = {3000}}, {.name = "b", .shape = {5}}};

// S6: Step out of order is refused, the same on every rank, and changes nothing.
TEST(ShardedOptimizer, S6CallsOutOfOrderAreRefused) {
  RunRankThreads(2, [](Rendezvous& rendezvous) {
    OptimizerOptions options;
    options.micro_steps = 2;
    const auto optimizer = MakeOptimizer(rendezvous, options, kPair);
    EXPECT_THAT(Message(optimizer->Step({.learning_rate = 1})), HasSubstr("Initialize"));
    InitializeToOnes(*optimizer);
    const auto before = optimizer->Digests();
    EXPECT_THAT(Message(optimizer->Step({.learning_rate = 1})), HasSubstr("0 of 2 micro-steps"));
    EXPECT_THAT(Message(optimizer->GradientReady(0)), HasSubstr("\"a\" needs GradientWritable"));
    EXPECT_THAT(Message(optimizer->GradientWritable(2)), HasSubstr("parameter 2"));
    EXPECT_TRUE(optimizer->GradientWritable(0).ok());
    EXPECT_TRUE(optimizer->GradientReady(0).ok());
    EXPECT_THAT(Message(optimizer->GradientReady(0)), HasSubstr("already"));
    EXPECT_THAT(Message(optimizer->GradientWritable(0)), HasSubstr("already"));
    EXPECT_THAT(Message(optimizer->SetMicroSteps(1)), HasSubstr("inside a step"));
    EXPECT_TRUE(optimizer->EndMicroStep().ok());
    EXPECT_THAT(Message(optimizer->Step({.learning_rate = 1})), HasSubstr("1 of 2 micro-steps"));
    EXPECT_TRUE(optimizer->EndMicroStep().ok());
    EXPECT_THAT(Message(optimizer->EndMicroStep()), HasSubstr("call Step first"));
    EXPECT_THAT(Message(optimizer->GradientWritable(0)), HasSubstr("call Step first"));
    EXPECT_THAT(Message(optimizer->Step({.learning_rate = -1})), HasSubstr("learning_rate"));
    EXPECT_EQ(*optimizer->Digests(), *before);
    EXPECT_TRUE(optimizer->Step({.learning_rate = 1}).ok());
    EXPECT_THAT(Message(optimizer->Save("/nowhere", "")), HasSubstr("FinishStep"));
    EXPECT_THAT(Message(optimizer->Step({.learning_rate = 1})), HasSubstr("FinishStep"));
    EXPECT_TRUE(optimizer->FinishStep().ok());
    EXPECT_THAT(Message(optimizer->FinishStep().status()), HasSubstr("no step is in flight"));
    EXPECT_THAT(Message(optimizer->Step({.learning_rate = 1})), HasSubstr("0 of 2 micro-steps"));
    EXPECT_NE(*optimizer->Digests(), *before);
  });
}

// S6: a step without any gradient is a step with zero gradients: only the decay acts.
TEST(ShardedOptimizer, S6StepWithoutGradients) {
  RunRankThreads(3, [](Rendezvous& rendezvous) {
    const auto optimizer = MakeOptimizer(rendezvous, {}, kPair);
    InitializeToOnes(*optimizer);
    ASSERT_TRUE(optimizer->EndMicroStep().ok());
    ASSERT_TRUE(optimizer->Step({.learning_rate = 0.5, .max_norm = 1.0}).ok());
    const auto record = optimizer->FinishStep();
    ASSERT_TRUE(record.ok());
    EXPECT_TRUE(record->applied);
    EXPECT_EQ(record->gradient_norm, 0.0);
    EXPECT_EQ((*optimizer->ReadState("a", StateKind::kMaster))[7], 1.0f - static_cast<float>(0.5 * 0.01));
  });
}

TEST(ShardedOptimizer, MissingGradientsCanBeRefused) {
  RunRankThreads(1, [](Rendezvous& rendezvous) {
    OptimizerOptions options;
    options.missing_gradient = MissingGradientPolicy::kRefuse;
    const auto optimizer = MakeOptimizer(rendezvous, options, kPair);
    InitializeToOnes(*optimizer);
    ASSERT_TRUE(optimizer->GradientWritable(0).ok());
    ASSERT_TRUE(optimizer->GradientReady(0).ok());
    EXPECT_THAT(Message(optimizer->EndMicroStep()), HasSubstr("\"b\""));
    ASSERT_TRUE(optimizer->GradientWritable(1).ok());
    ASSERT_TRUE(optimizer->GradientReady(1).ok());
    EXPECT_TRUE(optimizer->EndMicroStep().ok());
  });
}

// Ranks that disagree change nothing, both are named, and the next step works.
TEST(ShardedOptimizer, DisagreementIsNamedAndHarmless) {
  RunRankThreads(3, [](Rendezvous& rendezvous) {
    const auto optimizer = MakeOptimizer(rendezvous, {}, kPair);
    InitializeToOnes(*optimizer);
    const auto before = optimizer->Digests();
    ASSERT_TRUE(optimizer->EndMicroStep().ok());
    ASSERT_TRUE(optimizer->Step({.learning_rate = rendezvous.rank() == 1 ? 0.2 : 0.1}).ok());
    const auto record = optimizer->FinishStep();
    EXPECT_EQ(record.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(Message(record.status()), HasSubstr("different learning_rate"));
    EXPECT_THAT(Message(record.status()), HasSubstr("1"));
    EXPECT_EQ(*optimizer->Digests(), *before);
    ASSERT_TRUE(optimizer->EndMicroStep().ok());
    ASSERT_TRUE(optimizer->Step({.learning_rate = 0.1}).ok());
    EXPECT_TRUE(optimizer->FinishStep().ok());
    EXPECT_NE(*optimizer->Digests(), *before);
  });
}

TEST(ShardedOptimizer, GradientsWithoutAMicroBatchAreRefused) {
  RunRankThreads(2, [](Rendezvous& rendezvous) {
    const auto optimizer = MakeOptimizer(rendezvous, {}, kPair);
    InitializeToOnes(*optimizer);
    ASSERT_TRUE(optimizer->GradientWritable(0).ok());
    ASSERT_TRUE(optimizer->GradientReady(0).ok());
    ASSERT_TRUE(optimizer->EndMicroStep().ok());
    ASSERT_TRUE(optimizer->Step({.learning_rate = 0.1, .micro_batches = 1}).ok());
    EXPECT_THAT(Message(optimizer->FinishStep().status()), HasSubstr("rank 1 marked gradients ready in micro-step 0"));
  });
}

// C6: the error of the last skip allowed reaches every rank, and a good step follows.
TEST(ShardedOptimizer, C6TooManySkipsAreAnError) {
  RunRankThreads(2, [](Rendezvous& rendezvous) {
    OptimizerOptions options;
    options.max_consecutive_skips = 2;
    const auto optimizer = MakeOptimizer(rendezvous, options, kPair);
    InitializeToOnes(*optimizer);
    const auto step = [&](Bf16 value) {
      EXPECT_TRUE(optimizer->GradientWritable(1).ok());
      optimizer->gradient(1)[2] = value;
      EXPECT_TRUE(optimizer->GradientReady(1).ok());
      EXPECT_TRUE(optimizer->EndMicroStep().ok());
      EXPECT_TRUE(optimizer->Step({.learning_rate = 0.1}).ok());
      return optimizer->FinishStep();
    };
    const auto before = optimizer->Digests();
    const Bf16 bad{static_cast<uint16_t>(rendezvous.rank() == 1 ? 0x7f80 : 0)};
    const auto first = step(bad);
    ASSERT_TRUE(first.ok());
    EXPECT_EQ(first->consecutive_skips, 1);
    const auto second = step(bad);
    EXPECT_EQ(second.status().code(), absl::StatusCode::kOutOfRange);
    EXPECT_THAT(Message(second.status()), HasSubstr("rank 1"));
    EXPECT_THAT(Message(second.status()), HasSubstr("\"b\", element 2"));
    EXPECT_EQ(*optimizer->Digests(), *before);
    EXPECT_EQ(optimizer->counters().applied_steps, 0);
    EXPECT_EQ(optimizer->counters().step, 2);
    ASSERT_TRUE(step(ToBf16(1)).ok());
    EXPECT_EQ(optimizer->counters().applied_steps, 1);
  });
}

// S5: the number of micro-steps may change between steps.
TEST(ShardedOptimizer, S5MicroStepsMayChange) {
  std::vector<OptimizerDigests> digests(2);
  for (const int n : {1, 2}) {
    RunRankThreads(n, [&](Rendezvous& rendezvous) {
      const auto optimizer = MakeOptimizer(rendezvous, {}, kPair);
      InitializeToOnes(*optimizer);
      for (const int64_t micro_batches : {4, 2, 8}) {
        ASSERT_TRUE(optimizer->SetMicroSteps(micro_batches / n).ok());
        for (int64_t k = 0; k < micro_batches / n; ++k) {
          for (const int p : {1, 0}) {
            ASSERT_TRUE(optimizer->GradientWritable(p).ok());
            const absl::Span<Bf16> gradient = optimizer->gradient(p);
            for (size_t i = 0; i < gradient.size(); ++i) {
              gradient[i] = TrainingJob::MixedGradient(micro_batches, k * n + rendezvous.rank(), p, i);
            }
            ASSERT_TRUE(optimizer->GradientReady(p).ok());
          }
          ASSERT_TRUE(optimizer->EndMicroStep().ok());
        }
        ASSERT_TRUE(optimizer->Step({.learning_rate = 0.1, .max_norm = 0.1}).ok());
        ASSERT_TRUE(optimizer->FinishStep().ok());
      }
      const auto result = optimizer->Digests();
      if (rendezvous.rank() == 0) digests[n - 1] = *result;
    });
  }
  EXPECT_EQ(digests[0], digests[1]);
}

TEST(ShardedOptimizer, MemoryKnowsTheRunningSumsOfMoreMicroSteps) {
  RunRankThreads(1, [](Rendezvous& rendezvous) {
    const auto optimizer = MakeOptimizer(rendezvous, {}, kPair);
    InitializeToOnes(*optimizer);
    EXPECT_EQ(optimizer->memory().accumulator_bytes, 0);
    ASSERT_TRUE(optimizer->SetMicroSteps(2).ok());
    EXPECT_EQ(optimizer->memory().accumulator_bytes, optimizer->memory().master_bytes);
    ASSERT_TRUE(optimizer->SetMicroSteps(1).ok());
    EXPECT_EQ(optimizer->memory().accumulator_bytes, optimizer->memory().master_bytes) << "they stay";
  });
}

TEST(ShardedOptimizer, MicroStepsMustBeEqualAndPossible) {
  RunRankThreads(2, [](Rendezvous& rendezvous) {
    const auto optimizer = MakeOptimizer(rendezvous, {}, kPair);
    InitializeToOnes(*optimizer);
    for (const int64_t bad : {int64_t{0}, int64_t{-1}, int64_t{1} << 40, std::numeric_limits<int64_t>::max()}) {
      EXPECT_THAT(Message(optimizer->SetMicroSteps(bad)), HasSubstr(absl::StrCat("micro_steps = ", bad)));
    }
    const absl::Status differing = optimizer->SetMicroSteps(1 + rendezvous.rank());
    EXPECT_EQ(differing.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(Message(differing), HasSubstr("ranks 0 and 1 differ: \"1\" against \"2\""));
    ASSERT_TRUE(optimizer->EndMicroStep().ok());
    ASSERT_TRUE(optimizer->Step({.learning_rate = 0.1}).ok());
    EXPECT_TRUE(optimizer->FinishStep().ok());
  });
}

TEST(ShardedOptimizer, SetWeightsMustAgree) {
  RunRankThreads(2, [](Rendezvous& rendezvous) {
    const bool first = rendezvous.rank() == 0;
    const auto optimizer = MakeOptimizer(rendezvous, {}, {{.name = "a", .shape = {3}}, {.name = "b", .shape = {3}}});
    InitializeToOnes(*optimizer);
    const auto before = optimizer->Digests();
    const std::vector<Bf16> twos(3, ToBf16(2)), threes(3, ToBf16(3)), short_one(2);
    EXPECT_THAT(Message(optimizer->SetWeights(first ? "a" : "b", twos)), HasSubstr("ranks 0 and 1 differ"));
    EXPECT_THAT(Message(optimizer->SetWeights("a", first ? twos : threes)), HasSubstr("ranks 0 and 1 differ"));
    EXPECT_THAT(Message(optimizer->SetWeights("a", first ? twos : short_one)), HasSubstr("rank 1"));
    EXPECT_EQ(*optimizer->Digests(), *before);
    EXPECT_TRUE(optimizer->SetWeights("a", twos).ok());
  });
}

TEST(ShardedOptimizer, ThereAreNoSpansOfUnknownParameters) {
  RunRankThreads(1, [](Rendezvous& rendezvous) {
    const auto optimizer = MakeOptimizer(rendezvous, {}, kPair);
    for (const int p : {-1, 2}) {
      EXPECT_TRUE(optimizer->weights(p).empty());
      EXPECT_TRUE(optimizer->gradient(p).empty());
    }
  });
}

TEST(ShardedOptimizer, AccumulatedGradientsAreZeroedAfterReading) {
  RunRankThreads(2, [](Rendezvous& rendezvous) {
    OptimizerOptions options;
    options.accumulate_gradients = true;
    const auto optimizer = MakeOptimizer(rendezvous, options, kPair);
    InitializeToOnes(*optimizer);
    for (int step = 0; step < 3; ++step) {
      for (const int p : {1, 0}) {
        ASSERT_TRUE(optimizer->GradientWritable(p).ok());
        for (Bf16& g : optimizer->gradient(p)) {
          ASSERT_EQ(g.bits, 0);
          g = ToBf16(1);
        }
        ASSERT_TRUE(optimizer->GradientReady(p).ok());
      }
      ASSERT_TRUE(optimizer->EndMicroStep().ok());
      ASSERT_TRUE(optimizer->Step({.learning_rate = 0.1}).ok());
      ASSERT_TRUE(optimizer->FinishStep().ok());
    }
  });
}

TEST(ShardedOptimizer, SetWeightsKeepsMomentsAndReadStateReturnsThem) {
  RunRankThreads(3, [](Rendezvous& rendezvous) {
    const auto optimizer = MakeOptimizer(rendezvous, {}, kPair);
    InitializeToOnes(*optimizer);
    const auto before = optimizer->Digests();
    std::vector<Bf16> values(3000);
    for (int i = 0; i < 3000; ++i) values[i] = ToBf16(static_cast<float>(i));
    ASSERT_TRUE(optimizer->SetWeights("a", values).ok());
    const auto master = optimizer->ReadState("a", StateKind::kMaster);
    ASSERT_TRUE(master.ok());
    for (int i = 0; i < 3000; ++i) {
      EXPECT_EQ((*master)[i], ToFloat(values[i]));
      EXPECT_EQ(optimizer->weights(0)[i], values[i]);
    }
    EXPECT_EQ(optimizer->weights(1)[0], ToBf16(1));
    EXPECT_EQ(optimizer->Digests()->first_moment, before->first_moment);
    EXPECT_THAT(Message(optimizer->SetWeights("c", values)), HasSubstr("\"c\""));
    EXPECT_THAT(Message(optimizer->SetWeights("b", values)), HasSubstr("5 elements, not 3000"));
  });
}

// R5, R6 at creation: both ranks and the first field that differs.
TEST(ShardedOptimizer, ConfigurationsMustAgree) {
  RunRankThreads(3, [](Rendezvous& rendezvous) {
    auto communicator = CreateInprocCommunicator(rendezvous, {});
    ASSERT_TRUE(communicator.ok());
    std::vector<ParameterSpec> parameters = kPair;
    if (rendezvous.rank() == 2) parameters[1].shape = {6};
    const auto optimizer = ShardedOptimizer::Create({}, parameters, *std::move(communicator), &rendezvous);
    EXPECT_EQ(optimizer.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(Message(optimizer.status()), HasSubstr("ranks 0 and 2"));
    EXPECT_THAT(Message(optimizer.status()), HasSubstr("parameter 1"));
  });
}

TEST(ShardedOptimizer, BadOptionsOfOneRankAreRefusedOnAll) {
  RunRankThreads(2, [](Rendezvous& rendezvous) {
    auto communicator = CreateInprocCommunicator(rendezvous, {});
    ASSERT_TRUE(communicator.ok());
    OptimizerOptions options;
    if (rendezvous.rank() == 1) options.groups[0].rule = AdamWOptions{.beta2 = 1.5};
    const auto optimizer = ShardedOptimizer::Create(options, kPair, *std::move(communicator), &rendezvous);
    EXPECT_THAT(Message(optimizer.status()), HasSubstr("rank 1"));
    EXPECT_THAT(Message(optimizer.status()), HasSubstr("beta2"));
  });
}

// Bytes per parameter: 2 of gradients on every rank, 12 of fp32 state per owned one, 4 more with an accumulator, and
// 2 of weights once per host.
TEST(ShardedOptimizer, MemoryPerParameter) {
  const int64_t elements = int64_t{1} << 24;
  const std::vector<ParameterSpec> parameters = {{.name = "a", .shape = {elements}}};
  for (const int n : {1, 2, 4}) {
    OptimizerOptions options;
    options.bucket_bytes = 1 << 20;
    const auto estimate = ShardedOptimizer::EstimateMemory(options, parameters, n);
    ASSERT_TRUE(estimate.ok());
    EXPECT_EQ(estimate->weights_shared_bytes, 2 * elements);
    EXPECT_EQ(estimate->gradient_bytes, 2 * elements);
    EXPECT_EQ(estimate->master_bytes, 4 * elements / n);
    EXPECT_EQ(estimate->state_bytes, 8 * elements / n);
    EXPECT_EQ(estimate->accumulator_bytes, 0);
    options.micro_steps = 2;
    EXPECT_EQ(ShardedOptimizer::EstimateMemory(options, parameters, n)->accumulator_bytes, 4 * elements / n);
  }
}

TEST(ShardedOptimizer, WhatOneRankFailedInFailsOnAll) {
  RunRankThreads(3, [](Rendezvous& rendezvous) {
    const auto optimizer = MakeOptimizer(rendezvous, {}, kPair);
    InitializeToOnes(*optimizer);
    EXPECT_EQ(optimizer->Agree("reading", absl::OkStatus()), absl::OkStatus());
    const absl::Status mine = rendezvous.rank() == 0 ? absl::OkStatus() : absl::DataLossError("torn file");
    EXPECT_EQ(optimizer->Agree("reading", mine), absl::DataLossError("rank 1: torn file"));
    EXPECT_TRUE(EmptyStep(*optimizer).ok());
    ASSERT_TRUE(optimizer->EndMicroStep().ok());
    EXPECT_EQ(optimizer->Agree("reading", absl::OkStatus()),
              absl::FailedPreconditionError("rank 0: reading: inside a step"));
  });
}

TEST(ShardedOptimizer, AbortEndsEveryRank) {
  std::atomic<int> ended = 0;
  RunRankThreads(2, [&](Rendezvous& rendezvous) {
    const auto optimizer = MakeOptimizer(rendezvous, {}, kPair);
    InitializeToOnes(*optimizer);
    if (rendezvous.rank() == 1) {
      optimizer->Abort(absl::CancelledError("out of patience"));
    } else {
      const absl::Status status = EmptyStep(*optimizer);
      EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
      EXPECT_THAT(Message(status), HasSubstr("rank 1"));
      EXPECT_THAT(Message(status), HasSubstr("out of patience"));
      EXPECT_THAT(Message(optimizer->EndMicroStep()), HasSubstr("out of patience"));
    }
    ++ended;
  });
  EXPECT_EQ(ended, 2);
}

TEST(ShardedOptimizer, DestructionInsideAStepEndsEveryRankAtOnce) {
  const auto begin = std::chrono::steady_clock::now();
  RunRankThreads(2, [](Rendezvous& rendezvous) {
    const auto optimizer = MakeOptimizer(rendezvous, {}, kPair);
    InitializeToOnes(*optimizer);
    ASSERT_TRUE(optimizer->GradientWritable(1).ok());
    ASSERT_TRUE(optimizer->GradientReady(1).ok());
    if (rendezvous.rank() == 1) return;
    EXPECT_THAT(Message(EmptyStep(*optimizer)), HasSubstr("destroyed inside a step"));
  });
  // Far below the deadline of a minute: nobody waited for it.
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30));
}

TEST(ShardedOptimizer, AnAbsentRankIsNamed) {
  std::atomic<bool> named = false;
  RunRankThreads(3, [&](Rendezvous& rendezvous) {
    OptimizerOptions options;
    options.wait_deadline = absl::Milliseconds(300);
    const auto optimizer = MakeOptimizer(rendezvous, options, kPair);
    InitializeToOnes(*optimizer);
    if (rendezvous.rank() == 2) {
      while (!named) std::this_thread::yield();
      return;
    }
    const absl::Status status = EmptyStep(*optimizer);
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(Message(status), HasSubstr("2"));
    named = true;
  });
}

// A rank that says it is away (an evaluation, say) trips nobody's deadline.
TEST(ShardedOptimizer, ARankMayBeAwayLongerThanTheDeadline) {
  RunRankThreads(2, [](Rendezvous& rendezvous) {
    OptimizerOptions options;
    options.wait_deadline = absl::Milliseconds(200);
    const auto optimizer = MakeOptimizer(rendezvous, options, kPair);
    InitializeToOnes(*optimizer);
    if (rendezvous.rank() == 1) {
      optimizer->SetAway(absl::Minutes(1));
      std::this_thread::sleep_for(std::chrono::milliseconds(700));
      optimizer->SetAway(absl::ZeroDuration());
    }
    ASSERT_TRUE(optimizer->EndMicroStep().ok());
    ASSERT_TRUE(optimizer->Step({.learning_rate = 0.1}).ok());
    const auto record = optimizer->FinishStep();
    EXPECT_TRUE(record.ok()) << record.status();
  });
}

}  // namespace
}  // namespace shardstep
