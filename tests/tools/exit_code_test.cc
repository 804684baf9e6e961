#include "shardstep/tools/exit_code.h"

#include <gtest/gtest.h>

namespace shardstep {
namespace {

int Code(absl::Status status, Phase phase) { return static_cast<int>(ExitCodeOf(status, phase)); }

TEST(ExitCodeTest, SameEverywhere) {
  for (const Phase phase : {Phase::kCommandLine, Phase::kSetup, Phase::kData, Phase::kRun}) {
    EXPECT_EQ(Code(absl::OkStatus(), phase), 0);
    EXPECT_EQ(Code(absl::DataLossError(""), phase), 65);
    EXPECT_EQ(Code(absl::OutOfRangeError(""), phase), 65);
    EXPECT_EQ(Code(absl::InternalError(""), phase), 70);
    EXPECT_EQ(Code(absl::UnimplementedError(""), phase), 70);
    EXPECT_EQ(Code(absl::PermissionDeniedError(""), phase), 74);
    EXPECT_EQ(Code(absl::ResourceExhaustedError(""), phase), 74);
    EXPECT_EQ(Code(absl::AlreadyExistsError(""), phase), 74);
    EXPECT_EQ(Code(absl::UnknownError(""), phase), 74);
    EXPECT_EQ(Code(absl::AbortedError(""), phase), 75);
    EXPECT_EQ(Code(absl::CancelledError(""), phase), 75);
    EXPECT_EQ(Code(absl::DeadlineExceededError(""), phase), 75);
    EXPECT_EQ(Code(absl::UnavailableError(""), phase), 75);
  }
}

TEST(ExitCodeTest, ABadValueIsUsageDataOrConfiguration) {
  EXPECT_EQ(Code(absl::InvalidArgumentError(""), Phase::kCommandLine), 64);
  EXPECT_EQ(Code(absl::InvalidArgumentError(""), Phase::kData), 65);
  EXPECT_EQ(Code(absl::InvalidArgumentError(""), Phase::kSetup), 78);
  EXPECT_EQ(Code(absl::InvalidArgumentError(""), Phase::kRun), 78);
}

TEST(ExitCodeTest, RanksThatDifferAreConfigurationOnlyBeforeTheFirstStep) {
  EXPECT_EQ(Code(absl::FailedPreconditionError(""), Phase::kSetup), 78);
  EXPECT_EQ(Code(absl::FailedPreconditionError(""), Phase::kRun), 70);
}

TEST(ExitCodeTest, AMissingFileIsBadDataOnlyWhenItIsTheData) {
  EXPECT_EQ(Code(absl::NotFoundError(""), Phase::kData), 65);
  EXPECT_EQ(Code(absl::NotFoundError(""), Phase::kSetup), 74);
}

TEST(ExitCodeTest, ARankThatAnotherOneEndedExitsAsThatOne) {
  const auto ended_by = [](absl::StatusCode code) { return Annotate(AbortedBy(2, code, "failed: reason"), "save"); };
  EXPECT_EQ(Code(ended_by(absl::StatusCode::kResourceExhausted), Phase::kRun), 74);
  EXPECT_EQ(Code(ended_by(absl::StatusCode::kDataLoss), Phase::kSetup), 65);
  EXPECT_EQ(Code(ended_by(absl::StatusCode::kInvalidArgument), Phase::kSetup), 78);
  EXPECT_EQ(Code(ended_by(absl::StatusCode::kAborted), Phase::kRun), 75);
}

}  // namespace
}  // namespace shardstep
