#include "shardstep/comm/status.h"

#include "gtest/gtest.h"

namespace shardstep {
namespace {

TEST(StatusTest, AnnotateKeepsCodeAndPayloads) {
  absl::Status status = AbortedBy(2, absl::StatusCode::kResourceExhausted, "failed: disk full");
  status.SetPayload("other", absl::Cord("x"));
  const absl::Status annotated = Annotate(status, "save");
  EXPECT_EQ(annotated.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(annotated.message(), "save: rank 2 failed: disk full");
  EXPECT_EQ(CauseOf(annotated), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(annotated.GetPayload("other"), absl::Cord("x"));
  EXPECT_TRUE(Annotate(absl::OkStatus(), "save").ok());
}

TEST(StatusTest, TheCauseIsTheStatusesOwnCodeUnlessAnotherRankFailed) {
  EXPECT_EQ(CauseOf(absl::OkStatus()), absl::StatusCode::kOk);
  EXPECT_EQ(CauseOf(absl::DataLossError("")), absl::StatusCode::kDataLoss);
  EXPECT_EQ(CauseOf(AbortedBy(0, absl::StatusCode::kDataLoss, "")), absl::StatusCode::kDataLoss);
}

// A peer of a rank that aborts must never look as if all were well.
TEST(StatusTest, ACauseIsNeverOkNorAnUnknownNumber) {
  EXPECT_EQ(CauseOf(AbortedBy(0, absl::StatusCode::kOk, "")), absl::StatusCode::kAborted);
  EXPECT_EQ(CauseOf(AbortedBy(0, static_cast<absl::StatusCode>(999), "")), absl::StatusCode::kUnknown);
  for (const char* payload : {"", "0", "full"}) {
    absl::Status status = absl::AbortedError("");
    status.SetPayload(kCausePayload, absl::Cord(payload));
    EXPECT_EQ(CauseOf(status), absl::StatusCode::kAborted) << payload;
  }
}

}  // namespace
}  // namespace shardstep
