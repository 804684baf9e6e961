#include "shardstep/tools/trace/trace_events.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "trace_checks.h"

namespace shardstep {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TraceSpan Span(StepOp op, StepStream stream, int64_t begin_ns, int64_t micro_step = -1, int64_t step = 1) {
  return {.name = ToString(op),
          .stream = stream,
          .step = step,
          .bucket = 2,
          .micro_step = micro_step,
          .begin_ns = begin_ns,
          .end_ns = begin_ns + 500};
}

ReadTrace Read(const RankSpans& of_rank, int64_t arrows = 0) {
  return ParseTrace(absl::StrCat("{\"traceEvents\":[", TraceEvents(of_rank, &arrows), "]}"));
}

std::vector<std::vector<std::string>> Arrows(const ReadTrace& trace) {
  std::vector<std::vector<std::string>> arrows;
  for (const auto& [number, slices] : trace.arrows) arrows.push_back(trace.Through(number));
  return arrows;
}

TEST(TraceEventsTest, SlicesSayWhatAndWhen) {
  TraceSpan exchange = Span(StepOp::kExchange, StepStream::kExchange, 1234, 3, 9);
  exchange.level = Level::kNetwork;
  const TraceSpan wait{.name = "Step", .caller_waits = true, .step = 8, .bucket = 1, .begin_ns = 0, .end_ns = 2000};
  const TraceSpan decide{.name = "Decide", .stream = StepStream::kUpdate, .step = 9, .begin_ns = 1, .end_ns = 1};
  const ReadTrace trace = Read({.rank = 4, .host = "h", .spans = {exchange, wait, decide}});
  ASSERT_EQ(trace.slices.size(), 3u);
  const ReadTrace::Slice& step = trace.slices[0];
  EXPECT_EQ(step.name, "Step");
  EXPECT_EQ(step.process, "rank 4 (h)");
  EXPECT_EQ(step.thread, "caller");
  EXPECT_EQ(step.end_us, 2);
  EXPECT_EQ(step.args, nlohmann::json({{"step", 8}, {"bucket", 1}}));
  EXPECT_EQ(trace.slices[1].thread, "update");
  EXPECT_EQ(trace.slices[1].args, nlohmann::json({{"step", 9}, {"level", "host"}}));
  EXPECT_EQ(trace.slices[2].thread, "exchange");
  EXPECT_EQ(trace.slices[2].begin_us, 1.234);
  EXPECT_EQ(trace.slices[2].args,
            nlohmann::json({{"step", 9}, {"bucket", 2}, {"micro_step", 3}, {"level", "network"}}));
  EXPECT_THAT(trace.arrows, IsEmpty());
  EXPECT_THAT(trace.remarks, IsEmpty());
}

TEST(TraceEventsTest, ArrowsFollowTheGradientsOfEachMicroStep) {
  const StepStream caller = StepStream::kCaller, update = StepStream::kUpdate;
  RankSpans spans{.spans = {Span(StepOp::kExchange, caller, 0, 0), Span(StepOp::kAwaitSlices, update, 1000, 0),
                            Span(StepOp::kExchange, caller, 1500, 1), Span(StepOp::kReduce, update, 2000, 0),
                            Span(StepOp::kReduce, update, 3000, 1), Span(StepOp::kDecide, update, 4000),
                            Span(StepOp::kUpdate, update, 5000), Span(StepOp::kPublish, update, 6000)}};
  spans.spans[5].bucket = -1;
  EXPECT_THAT(Arrows(Read(spans)), ElementsAre(ElementsAre("Exchange", "Reduce", "Update"),
                                               ElementsAre("Exchange", "Reduce", "Update", "Publish")));
  EXPECT_EQ(Read(spans, 17).arrows.begin()->first, 17);
  // Another step's and another bucket's are others.
  RankSpans apart{.spans = {Span(StepOp::kExchange, caller, 0, 0), Span(StepOp::kUpdate, update, 5000, -1, 2),
                            Span(StepOp::kPublish, update, 6000, -1, 3)}};
  EXPECT_THAT(Arrows(Read(apart)), IsEmpty());
}

TEST(TraceEventsTest, ArrowsGoThroughBothLevels) {
  std::vector<TraceSpan> spans = {
      Span(StepOp::kExchange, StepStream::kCaller, 0, 0),  Span(StepOp::kExchange, StepStream::kExchange, 1000, 0),
      Span(StepOp::kReduce, StepStream::kUpdate, 2000, 0), Span(StepOp::kUpdate, StepStream::kUpdate, 3000),
      Span(StepOp::kPublish, StepStream::kUpdate, 4000),   Span(StepOp::kPublish, StepStream::kExchange, 5000)};
  EXPECT_THAT(Arrows(Read({.spans = spans})),
              ElementsAre(ElementsAre("Exchange", "Exchange", "Reduce", "Update", "Publish", "Publish")));
}

// The first spans that were kept may be any.
TEST(TraceEventsTest, WhatIsMissingIsLeftOutAndSaid) {
  const ReadTrace trace = Read(
      {.rank = 1,
       .dropped = 12,
       .spans = {Span(StepOp::kUpdate, StepStream::kUpdate, 3000), Span(StepOp::kPublish, StepStream::kUpdate, 4000)}});
  EXPECT_THAT(Arrows(trace), ElementsAre(ElementsAre("Update", "Publish")));
  EXPECT_THAT(trace.remarks, ElementsAre("12 earlier spans of rank 1 were not kept"));
  EXPECT_THAT(Arrows(Read({.spans = {Span(StepOp::kPublish, StepStream::kUpdate, 1)}})), IsEmpty());
  EXPECT_THAT(Read({}).slices, IsEmpty());
}

TEST(TraceEventsTest, NamesMayBeAnyBytes) {
  const ReadTrace trace =
      Read({.host = "a\"b\\\n\xff", .spans = {{.name = "\"", .step = 1, .begin_ns = 0, .end_ns = 1}}});
  ASSERT_EQ(trace.slices.size(), 1u);
  EXPECT_EQ(trace.slices[0].name, "\"");
  EXPECT_EQ(trace.slices[0].process, "rank 0 (a\"b\\\n\xef\xbf\xbd)");
}

}  // namespace
}  // namespace shardstep
