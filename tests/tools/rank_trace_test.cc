#include "shardstep/tools/trace/rank_trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "shardstep/proto/trace.pb.h"

namespace shardstep {
namespace {

using ::testing::HasSubstr;

const RankSpans kSpans{.rank = 3,
                       .host = "h",
                       .dropped = 5,
                       .spans = {{.name = "Reduce",
                                  .stream = StepStream::kUpdate,
                                  .level = Level::kNetwork,
                                  .step = 1234567890123,
                                  .bucket = 7,
                                  .micro_step = 2,
                                  .begin_ns = 900,
                                  .end_ns = 1000},
                                 {.name = "Step", .caller_waits = true, .step = 8, .begin_ns = 100, .end_ns = 99999},
                                 {.name = "Reduce", .stream = StepStream::kExchange, .begin_ns = 1, .end_ns = 1}}};

TEST(RankTraceTest, DecodesWhatItEncodes) {
  std::set<std::string> names;
  const auto decoded = DecodeRankTrace(3, EncodeRankTrace(kSpans), &names);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->rank, 3);
  EXPECT_EQ(decoded->host, "h");
  EXPECT_EQ(decoded->dropped, 5);
  ASSERT_EQ(decoded->spans.size(), kSpans.spans.size());
  for (size_t i = 0; i < kSpans.spans.size(); ++i) {
    const TraceSpan& span = decoded->spans[i];
    const TraceSpan& expected = kSpans.spans[i];
    EXPECT_STREQ(span.name, expected.name);
    EXPECT_EQ(span.stream, expected.stream);
    EXPECT_EQ(span.level, expected.level);
    EXPECT_EQ(span.caller_waits, expected.caller_waits);
    EXPECT_EQ(span.step, expected.step);
    EXPECT_EQ(span.bucket, expected.bucket);
    EXPECT_EQ(span.micro_step, expected.micro_step);
    EXPECT_EQ(span.begin_ns, expected.begin_ns);
    EXPECT_EQ(span.end_ns, expected.end_ns);
  }
}

void ExpectRefused(const std::string& bytes) {
  std::set<std::string> names;
  const absl::Status status = DecodeRankTrace(2, bytes, &names).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("the trace of rank 2"));
}

TEST(RankTraceTest, RefusesWhatIsNoTrace) {
  ExpectRefused("\xff\xff");
  for (const int field : {0, 1, 2, 3}) {
    proto::RankTrace message;
    ASSERT_TRUE(message.ParseFromString(EncodeRankTrace(kSpans)));
    if (field == 0) message.add_begin_ns(1);
    if (field == 1) message.set_name(2, 2);
    if (field == 2) message.set_stream(0, 3);
    if (field == 3) message.set_level(0, 2);
    ExpectRefused(message.SerializeAsString());
  }
}

}  // namespace
}  // namespace shardstep
