// What a StepTrace hears: of single launches, and of whole steps on ranks that are threads.
#include "shardstep/runtime/step_tracer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shardstep/comm/host_stream.h"
#include "shardstep/comm/mutex.h"
#include "shardstep/runtime/plan_input.h"
#include "shardstep/tests/comm/delaying_communicator.h"
#include "shardstep/tests/comm/rank_threads.h"
#include "training_job.h"

namespace shardstep {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::IsSupersetOf;

class Spans : public StepTrace {
 public:
  void Add(const TraceSpan& span) override {
    const MutexLock lock(&mutex_);
    spans_.push_back(span);
  }
  std::vector<TraceSpan> Take() {
    const MutexLock lock(&mutex_);
    return std::exchange(spans_, {});
  }

 private:
  Mutex mutex_;
  std::vector<TraceSpan> spans_ ABSL_GUARDED_BY(mutex_);
};

// ---- Single launches -----------------------------------------------------------------------------------------------

const StepNode kNode{.op = StepOp::kReduce, .level = Level::kNetwork, .bucket = 3, .micro_step = 2};

class StepTracerTest : public ::testing::Test {
 protected:
  // As a launch whose work is `work`.
  absl::Status Launch(HostStream& stream, HostStream::Work work) {
    return tracer_.Launch(kNode, 7, stream, [&] {
      stream.Enqueue("work", work);
      return absl::OkStatus();
    });
  }

  Spans spans_;
  StepTracer tracer_;
};

TEST_F(StepTracerTest, ASpanIsTheWorkAndNoWaitBeforeIt) {
  tracer_.Set(&spans_);
  ThreadStream stream, other;
  std::atomic<bool> go = false;
  other.Enqueue("gate", [&] {
    while (!go) std::this_thread::yield();
    return absl::OkStatus();
  });
  stream.Wait(other.Record());
  int64_t before_ns = 0, after_ns = 0;
  ASSERT_TRUE(Launch(stream, [&] {
                before_ns = SteadyNowNs();
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
                after_ns = SteadyNowNs();
                return absl::OkStatus();
              }).ok());
  const int64_t gate_ns = SteadyNowNs();
  go = true;
  ASSERT_TRUE(stream.Synchronize(stream.Record()).ok());
  const std::vector<TraceSpan> spans = spans_.Take();
  ASSERT_EQ(spans.size(), 1u);
  EXPECT_STREQ(spans[0].name, "Reduce");
  EXPECT_EQ(spans[0].stream, StepStream::kUpdate);
  EXPECT_EQ(spans[0].level, Level::kNetwork);
  EXPECT_FALSE(spans[0].caller_waits);
  EXPECT_EQ(spans[0].step, 7);
  EXPECT_EQ(spans[0].bucket, 3);
  EXPECT_EQ(spans[0].micro_step, 2);
  EXPECT_GE(spans[0].begin_ns, gate_ns);
  EXPECT_LE(spans[0].begin_ns, before_ns);
  EXPECT_GE(spans[0].end_ns, after_ns);
}

TEST_F(StepTracerTest, WhatFailsOrIsDroppedIsNotTold) {
  tracer_.Set(&spans_);
  for (const bool inline_stream : {false, true}) {
    std::unique_ptr<HostStream> stream;
    if (inline_stream) {
      stream = std::make_unique<InlineStream>();
    } else {
      stream = std::make_unique<ThreadStream>();
    }
    const auto fine = [] { return absl::OkStatus(); };
    ASSERT_TRUE(Launch(*stream, fine).ok());
    ASSERT_TRUE(Launch(*stream, [] { return absl::DataLossError("no"); }).ok());
    ASSERT_TRUE(Launch(*stream, fine).ok());
    EXPECT_EQ(stream->Synchronize(stream->Record()).code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(spans_.Take().size(), 1u);
    EXPECT_EQ(tracer_.Launch(kNode, 1, *stream, [] { return absl::AbortedError("launch"); }).code(),
              absl::StatusCode::kAborted);
  }
  EXPECT_THAT(spans_.Take(), IsEmpty());
}

// A stream that knows what it was given.
class CountingStream : public InlineStream {
 public:
  void Enqueue(absl::string_view name, Work work) override {
    ++items;
    InlineStream::Enqueue(name, std::move(work));
  }
  int items = 0;
};

TEST_F(StepTracerTest, CostsNothingWhenNobodyListens) {
  CountingStream stream;
  ASSERT_TRUE(Launch(stream, [] { return absl::OkStatus(); }).ok());
  EXPECT_EQ(stream.items, 1);
  tracer_.Set(&spans_);
  ASSERT_TRUE(Launch(stream, [] { return absl::OkStatus(); }).ok());
  EXPECT_EQ(stream.items, 4);
}

TEST_F(StepTracerTest, ShortWaitsAreExposedAndNotTold) {
  tracer_.Set(&spans_);
  int64_t exposed_ns = 0;
  {
    const CallerWait wait("Step", 4, 2, tracer_, &exposed_ns);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_GE(exposed_ns, 1000000);
  const std::vector<TraceSpan> spans = spans_.Take();
  ASSERT_EQ(spans.size(), 1u);
  EXPECT_STREQ(spans[0].name, "Step");
  EXPECT_TRUE(spans[0].caller_waits);
  EXPECT_EQ(spans[0].stream, StepStream::kCaller);
  EXPECT_EQ(spans[0].step, 4);
  EXPECT_EQ(spans[0].bucket, 2);
  EXPECT_EQ(spans[0].end_ns - spans[0].begin_ns, exposed_ns);
  tracer_.Add({.name = "Step", .begin_ns = 5000, .end_ns = 5999});
  EXPECT_THAT(spans_.Take(), IsEmpty());
}

// ---- Whole steps ---------------------------------------------------------------------------------------------------

// A node of one step, or the operation of a span.
using Operation = std::tuple<int64_t, std::string, StepStream, Level, int, int64_t>;

Operation OperationOf(const TraceSpan& span) {
  return {span.step, span.name, span.stream, span.level, span.bucket, span.micro_step};
}

std::vector<Operation> PlannedOperations(const StepPlan& plan, int64_t first_step, int64_t last_step) {
  std::vector<Operation> operations;
  for (int64_t step = first_step; step <= last_step; ++step) {
    for (const StepNode& node : plan.nodes) {
      operations.emplace_back(step, ToString(node.op), node.stream, node.level, node.bucket, node.micro_step);
    }
  }
  std::sort(operations.begin(), operations.end());
  return operations;
}

void ExpectNoOverlap(std::vector<TraceSpan> spans) {
  std::sort(spans.begin(), spans.end(), [](const TraceSpan& a, const TraceSpan& b) {
    return std::tie(a.stream, a.begin_ns) < std::tie(b.stream, b.begin_ns);
  });
  for (size_t i = 0; i < spans.size(); ++i) {
    EXPECT_LE(spans[i].begin_ns, spans[i].end_ns) << spans[i].name;
    if (i == 0 || spans[i - 1].stream != spans[i].stream) continue;
    EXPECT_LE(spans[i - 1].end_ns, spans[i].begin_ns) << spans[i - 1].name << ", " << spans[i].name;
  }
}

// Runs the job with a trace on every rank from step `first` to `last`, numbered as records are; checks all of them, and
// returns what rank 0 has heard.
std::vector<TraceSpan> RunTraced(TrainingJob job, int64_t first, int64_t last, TrainingResult* result) {
  std::vector<Spans> traces(job.world_size);
  std::vector<std::vector<TraceSpan>> spans(job.world_size);
  LevelTraits traits;
  if (!job.host_of_rank.empty()) {
    RunRankThreads(job.world_size, [&](Rendezvous& rendezvous) {
      const CommunicatorLevels levels = MakeLevels(job, rendezvous);
      if (rendezvous.rank() == 0) traits = TraitsOf(*levels.host, levels.network.get());
    });
  }
  job.before_step = [&](ShardedOptimizer& optimizer, int64_t step) {
    const int rank = optimizer.rank();
    if (step + 1 == first) optimizer.SetTrace(&traces[rank]);
    if (step != last) return;
    optimizer.SetTrace(nullptr);
    spans[rank] = traces[rank].Take();
  };
  job.after_steps = [&](ShardedOptimizer& optimizer) {
    const int rank = optimizer.rank();
    if (last == job.steps) {
      optimizer.SetTrace(nullptr);
      spans[rank] = traces[rank].Take();
    }
    EXPECT_THAT(traces[rank].Take(), IsEmpty()) << "told of when nobody listened";
    HostMap map;
    if (!job.host_of_rank.empty()) {
      map.hosts = {{}, {}};
      for (int r = 0; r < job.world_size; ++r) map.hosts[job.host_of_rank[r]].push_back(r);
    }
    const StepPlan plan = BuildStepPlan(
        MakePlanInput(job.options, optimizer.groups(), optimizer.layout(), map, job.micro_steps()), traits);
    std::vector<Operation> operations;
    for (const TraceSpan& span : spans[rank]) {
      if (!span.caller_waits) operations.push_back(OperationOf(span));
    }
    std::sort(operations.begin(), operations.end());
    EXPECT_EQ(operations, PlannedOperations(plan, first, last)) << "rank " << rank;
    ExpectNoOverlap(spans[rank]);
  };
  *result = RunTrainingJob(job);
  return spans[0];
}

TrainingJob Job() {
  TrainingJob job;
  job.world_size = 2;
  job.options.bucket_bytes = 1;  // one block per rank, so many buckets
  job.max_norm = 0.5;
  return job;
}

TEST(StepTrace, EveryNodeOfThePlanOncePerStep) {
  TrainingResult traced;
  RunTraced(Job(), 1, Job().steps, &traced);
  EXPECT_TRUE(traced == RunTrainingJob(Job())) << "a trace changed the bits";
}

TEST(StepTrace, BeginsAndEndsBetweenSteps) {
  TrainingResult traced;
  RunTraced(Job(), 2, 3, &traced);
  EXPECT_TRUE(traced == RunTrainingJob(Job()));
}

TEST(StepTrace, OneRank) {
  TrainingJob job = Job();
  job.world_size = 1;
  TrainingResult traced;
  RunTraced(job, 1, job.steps, &traced);
}

// Gradients of the next step travel while updates of this one run.
TEST(StepTrace, TwoStepsInFlight) {
  TrainingJob job = Job();
  job.finish_late = true;
  job.wrap = [](std::unique_ptr<Communicator> communicator, int rank) {
    return std::make_unique<DelayingCommunicator>(std::move(communicator), DelayOptions{.seed = uint64_t(rank) + 1});
  };
  TrainingResult traced;
  RunTraced(job, 1, job.steps, &traced);
}

TEST(StepTrace, SeveralHosts) {
  for (const Accumulation accumulation : {Accumulation::kSharded, Accumulation::kLocal}) {
    TrainingJob job = Job();
    job.world_size = 4;
    job.host_of_rank = {0, 0, 1, 1};
    job.options.accumulation = accumulation;
    TrainingResult traced;
    RunTraced(job, 1, job.steps, &traced);
    job.finish_late = true;
    EXPECT_TRUE(traced == RunTrainingJob(job));
  }
}

// Waits have the name of the call, and are of the step that its record names.
TEST(StepTrace, TheCallersWaits) {
  TrainingJob job = Job();
  job.finish_late = true;
  job.wrap = [](std::unique_ptr<Communicator> communicator, int) {
    return std::make_unique<DelayingCommunicator>(std::move(communicator),
                                                  DelayOptions{.max_delay_us = 2000, .rank = 1});
  };
  TrainingResult traced;
  std::set<std::string> waits;
  std::set<int64_t> steps;  // of WeightsReady
  for (const TraceSpan& span : RunTraced(job, 1, job.steps, &traced)) {
    if (!span.caller_waits) continue;
    EXPECT_EQ(span.bucket < 0, span.name == std::string("FinishStep")) << span.name;
    waits.insert(span.name);
    if (span.name == std::string("WeightsReady")) steps.insert(span.step);
  }
  EXPECT_THAT(waits, IsSupersetOf({"WeightsReady", "GradientWritable"}));
  EXPECT_THAT(std::vector<std::string>(
                  {"AwaitPublished", "EndMicroStep", "FinishStep", "GradientWritable", "Step", "WeightsReady"}),
              IsSupersetOf(waits));
  // Weights of the last step are nobody's concern in this job; the first are there before it.
  EXPECT_THAT(steps, ElementsAre(1, 2, 3, 4));
}

// Numbers of steps begin anew with Initialize, and go on after Load.
TEST(StepTrace, StepsAreNumberedAsRecordsAre) {
  const std::filesystem::path directory =
      std::filesystem::path(::testing::TempDir()) / absl::StrCat("step_tracer_test.", getpid());
  TrainingJob job = Job();
  const auto expect_number = [&job](ShardedOptimizer& optimizer, int64_t number) {
    Spans trace;
    optimizer.SetTrace(&trace);
    std::vector<StepRecord> records;
    Train(job, optimizer, 0, 1, &records);
    optimizer.SetTrace(nullptr);
    ASSERT_EQ(records.size(), 1u);
    EXPECT_EQ(records[0].step, number);
    const std::vector<TraceSpan> spans = trace.Take();
    EXPECT_FALSE(spans.empty());
    for (const TraceSpan& span : spans) EXPECT_TRUE(span.caller_waits || span.step == number) << span.step;
  };
  job.after_steps = [&](ShardedOptimizer& optimizer) {
    ASSERT_TRUE(optimizer.Save(directory, "").ok());
    ASSERT_TRUE(optimizer.Initialize([](int, int64_t, absl::Span<float>) {}).ok());
    expect_number(optimizer, 1);
    std::vector<std::string> warnings;
    ASSERT_TRUE(optimizer.Load(directory, &warnings).ok());
    expect_number(optimizer, job.steps + 1);
  };
  RunTrainingJob(job);
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace shardstep
