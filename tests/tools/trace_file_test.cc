// Traces of real steps, of ranks that are threads, as a viewer reads them.
#include "shardstep/tools/trace/trace_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shardstep/tests/comm/rank_threads.h"
#include "shardstep/tests/runtime/training_job.h"
#include "trace_checks.h"

namespace shardstep {
namespace {

using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;

class TraceFileTest : public ::testing::Test {
 protected:
  ~TraceFileTest() override { std::filesystem::remove(file_); }

  ReadTrace Read() const {
    std::stringstream text;
    text << std::ifstream(file_).rdbuf();
    return ParseTrace(text.str());
  }

  const std::string file_ =
      std::filesystem::path(::testing::TempDir()) / absl::StrCat("trace_file_test.", getpid(), ".json");
};

// Every rank runs the job with a recording of its own; together they write the file.
void RunTraced(TrainingJob job, const std::string& file) {
  std::vector<TraceRecording> recordings(job.world_size);
  job.before_step = [&](ShardedOptimizer& optimizer, int64_t step) {
    if (step == 0) optimizer.SetTrace(&recordings[optimizer.rank()]);
  };
  job.after_steps = [](ShardedOptimizer& optimizer) { optimizer.SetTrace(nullptr); };
  RunRankThreads(job.world_size, [&](Rendezvous& rendezvous) {
    RunRank(job, MakeLevels(job, rendezvous), rendezvous);
    const absl::Status written = WriteTrace(rendezvous, recordings[rendezvous.rank()], file);
    EXPECT_TRUE(written.ok()) << written;
  });
}

TEST_F(TraceFileTest, StepsOfTwoRanks) {
  TrainingJob job;
  job.world_size = 2;
  job.micro_batches = 4;
  job.options.bucket_bytes = 1;
  job.steps = 3;
  int buckets = 0;
  job.forward = [&](ShardedOptimizer& optimizer, int64_t, int) {
    if (optimizer.rank() == 0) buckets = optimizer.layout().bucket_count();
  };
  RunTraced(job, file_);
  const ReadTrace trace = Read();
  ASSERT_GT(buckets, 2);
  std::map<std::string, int> operations;
  std::set<std::string> processes;
  for (const ReadTrace::Slice& slice : trace.slices) {
    processes.insert(slice.process);
    if (slice.args.contains("level")) ++operations[absl::StrCat(slice.name, " on ", slice.thread)];
  }
  ASSERT_EQ(processes.size(), 2u);
  EXPECT_THAT(*processes.begin(), MatchesRegex("rank 0 \\(.+\\)"));
  EXPECT_THAT(*processes.rbegin(), MatchesRegex("rank 1 \\(.+\\)"));
  EXPECT_EQ(operations["Exchange on caller"], 2 * 3 * 2 * buckets);
  EXPECT_EQ(operations["Reduce on update"], 2 * 3 * 2 * buckets);
  EXPECT_EQ(operations["Update on update"], 2 * 3 * buckets);
  EXPECT_EQ(operations["Publish on update"], 2 * 3 * buckets);
  EXPECT_EQ(operations["Decide on update"], 2 * 3);
  // Each micro-step's gradients of each bucket.
  ASSERT_EQ(static_cast<int>(trace.arrows.size()), 2 * 3 * 2 * buckets);
  std::map<size_t, int> ways;
  for (const auto& [number, slices] : trace.arrows) {
    EXPECT_THAT(trace.Through(number), AnyOf(ElementsAre("Exchange", "Reduce", "Update"),
                                             ElementsAre("Exchange", "Reduce", "Update", "Publish")));
    ++ways[slices.size()];
    for (const size_t slice : slices) {
      EXPECT_EQ(trace.slices[slice].args["step"], trace.slices[slices[0]].args["step"]);
      EXPECT_EQ(trace.slices[slice].args["bucket"], trace.slices[slices[0]].args["bucket"]);
    }
  }
  EXPECT_EQ(ways[3], ways[4]);
  double first_us = 1e9;
  for (const ReadTrace::Slice& slice : trace.slices) first_us = std::min(first_us, slice.begin_us);
  EXPECT_EQ(first_us, 0);
}

TEST_F(TraceFileTest, SeveralHosts) {
  TrainingJob job;
  job.world_size = 4;
  job.host_of_rank = {0, 0, 1, 1};
  job.options.bucket_bytes = 1;
  job.steps = 2;
  RunTraced(job, file_);
  const ReadTrace trace = Read();
  EXPECT_FALSE(trace.arrows.empty());
  for (const auto& [number, slices] : trace.arrows) {
    EXPECT_THAT(trace.Through(number),
                AnyOf(ElementsAre("Exchange", "Exchange", "Reduce", "Update"),
                      ElementsAre("Exchange", "Exchange", "Reduce", "Update", "Publish", "Publish")));
  }
}

// Clocks of ranks on one host are one: what is recorded at the same moment is at the same place.
TEST_F(TraceFileTest, RanksShareAClock) {
  RunRankThreads(3, [&](Rendezvous& rendezvous) {
    TraceRecording recording;
    const int64_t begin_ns = 1000000 * (rendezvous.rank() + 1);
    recording.Add({.name = "Decide", .step = 1, .begin_ns = begin_ns, .end_ns = begin_ns + 1000});
    ASSERT_TRUE(WriteTrace(rendezvous, recording, file_).ok());
  });
  const ReadTrace trace = Read();
  ASSERT_EQ(trace.slices.size(), 3u);
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_THAT(trace.slices[rank].process, HasSubstr(absl::StrCat("rank ", rank)));
    EXPECT_NEAR(trace.slices[rank].begin_us, 1000.0 * rank, 500) << "the wall clock may be set meanwhile, hardly ever";
  }
}

TEST_F(TraceFileTest, NothingRecordedOnSomeRanksOrAll) {
  for (const int ranks_with_spans : {1, 0}) {
    RunRankThreads(2, [&](Rendezvous& rendezvous) {
      TraceRecording recording(1);
      if (rendezvous.rank() < ranks_with_spans) {
        for (int i = 0; i < 3; ++i) recording.Add({.name = "Decide", .begin_ns = 5, .end_ns = 6});
      }
      ASSERT_TRUE(WriteTrace(rendezvous, recording, file_).ok());
    });
    const ReadTrace trace = Read();
    EXPECT_EQ(static_cast<int>(trace.slices.size()), ranks_with_spans);
    EXPECT_EQ(static_cast<int>(trace.remarks.size()), ranks_with_spans);
  }
}

TEST_F(TraceFileTest, ManySpans) {
  RunRankThreads(2, [&](Rendezvous& rendezvous) {
    TraceRecording recording;
    for (int64_t i = 0; i < 100000; ++i) {
      const StepOp op = i % 2 == 0 ? StepOp::kExchange : StepOp::kUpdate;
      recording.Add({.name = ToString(op),
                     .step = i / 200,
                     .bucket = static_cast<int>(i / 2 % 100),
                     .micro_step = i % 2 == 0 ? 0 : -1,
                     .begin_ns = i * 100,
                     .end_ns = i * 100 + 50});
    }
    ASSERT_TRUE(WriteTrace(rendezvous, recording, file_).ok());
  });
  std::ifstream file(file_);
  int64_t lines = 0;
  for (std::string line; std::getline(file, line);) ++lines;
  // Slices, and both ends of an arrow between two of them.
  EXPECT_GT(lines, 2 * (100000 + 100000));
}

TEST_F(TraceFileTest, EveryRankLearnsThatTheFileWasNotWritten) {
  for (const std::string bad : {"/dev/full", "/nowhere/trace.json"}) {
    RunRankThreads(2, [&](Rendezvous& rendezvous) {
      TraceRecording recording;
      recording.Add({.name = "Decide", .begin_ns = 5, .end_ns = 6});
      const absl::Status status = WriteTrace(rendezvous, recording, rendezvous.rank() == 0 ? bad : "another");
      EXPECT_EQ(status.code(), absl::StatusCode::kUnknown);
      EXPECT_THAT(std::string(status.message()), HasSubstr(bad));
      EXPECT_THAT(std::string(status.message()), HasSubstr(bad == "/dev/full" ? "No space left" : "No such file"));
    });
  }
  EXPECT_FALSE(std::filesystem::exists("another"));
}

}  // namespace
}  // namespace shardstep
