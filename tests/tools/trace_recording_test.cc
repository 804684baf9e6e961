#include "shardstep/tools/trace/trace_recording.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace shardstep {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<int64_t> Steps(const TraceRecording& recording) {
  std::vector<int64_t> steps;
  for (const TraceSpan& span : recording.spans()) steps.push_back(span.step);
  return steps;
}

TEST(TraceRecordingTest, KeepsTheLatestAndCountsTheOthers) {
  TraceRecording recording(3);
  EXPECT_THAT(Steps(recording), IsEmpty());
  for (int64_t step = 1; step <= 3; ++step) recording.Add({.step = step});
  EXPECT_THAT(Steps(recording), ElementsAre(1, 2, 3));
  EXPECT_EQ(recording.dropped(), 0);
  recording.Add({.step = 4});
  EXPECT_THAT(Steps(recording), ElementsAre(2, 3, 4));
  EXPECT_EQ(recording.dropped(), 1);
  for (int64_t step = 5; step <= 11; ++step) recording.Add({.step = step});
  EXPECT_THAT(Steps(recording), ElementsAre(9, 10, 11));
  EXPECT_EQ(recording.dropped(), 8);
}

TEST(TraceRecordingTest, HearsSeveralThreads) {
  TraceRecording recording;
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) recording.Add({});
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(recording.spans().size(), 3000u);
}

}  // namespace
}  // namespace shardstep
