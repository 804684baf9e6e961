// What trainer_output_test sees of a whole program is not repeated here.
#include "shardstep/tools/train/train_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"

namespace shardstep {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

TrainedStep Step(int64_t step) {
  TrainedStep result{.bits_per_byte = 2.5, .tokens_per_second = 1000, .forward_ms = 10, .backward_ms = 20};
  result.record.step = step;
  result.record.applied = true;
  result.record.inexact_modes = {"accumulation: LOCAL"};
  result.record.copied_buffers = {"gradient of head.weight"};
  return result;
}

class TrainReportTest : public ::testing::Test {
 protected:
  TrainReportTest() { options_.records_path = file_; }
  ~TrainReportTest() override { std::filesystem::remove(file_); }

  std::string Records() const {
    std::stringstream text;
    text << std::ifstream(file_).rdbuf();
    return text.str();
  }

  const std::filesystem::path file_ =
      std::filesystem::path(::testing::TempDir()) / absl::StrCat("train_report_test.", getpid(), ".jsonl");
  TrainOptions options_;
  std::ostringstream out_;
};

TEST_F(TrainReportTest, RecordsNameInexactModesAndCopiedBuffers) {
  TrainReport report(options_, out_, 0);
  ASSERT_TRUE(report.Open().ok());
  ASSERT_TRUE(report.Begin(0).ok());
  ASSERT_TRUE(report.Step(Step(1)).ok());
  EXPECT_THAT(Records(), HasSubstr("\"inexact_mode\":[\"accumulation: LOCAL\"]"));
  EXPECT_THAT(Records(), HasSubstr("\"copied_buffer\":[\"gradient of head.weight\"]"));
}

TEST_F(TrainReportTest, AResumedRunAppendsItsRecords) {
  for (const bool resume : {false, true, false}) {
    options_.resume = resume;
    TrainReport report(options_, out_, 0);
    ASSERT_TRUE(report.Open().ok());
    ASSERT_TRUE(report.Step(Step(1)).ok());
    const std::string records = Records();
    EXPECT_EQ(std::count(records.begin(), records.end(), '\n'), resume ? 2 : 1);
  }
}

TEST_F(TrainReportTest, RecordsThatCannotBeWrittenAreAnError) {
  options_.records_path = "/dev/full";
  TrainReport report(options_, out_, 0);
  ASSERT_TRUE(report.Open().ok());
  EXPECT_THAT(std::string(report.Step(Step(1)).message()), HasSubstr("/dev/full"));
}

TEST_F(TrainReportTest, TheDigestLineComesLast) {
  TrainReport report(options_, out_, 60);
  ASSERT_TRUE(report.Open().ok());
  ASSERT_TRUE(report.Begin(0).ok());
  ASSERT_TRUE(report.Step(Step(1)).ok());
  report.Tell("news");
  ASSERT_TRUE(report.End(7, {}).ok());
  const std::string zeros(32, '0');
  EXPECT_THAT(out_.str(), EndsWith(absl::StrCat("\ndigest weights=", zeros, " master=", zeros, " state=", zeros, zeros,
                                                " step=7\n")));
}

}  // namespace
}  // namespace shardstep
