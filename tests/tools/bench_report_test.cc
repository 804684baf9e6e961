#include "shardstep/tools/bench/bench_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "shardstep/tools/exit_code.h"

namespace shardstep {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::SizeIs;

// Readers of the benchmark's output go by their order.
constexpr const char* kColumns[] = {"parameters",
                                    "ranks",
                                    "hosts",
                                    "rule",
                                    "master",
                                    "wire",
                                    "weights",
                                    "micro_steps",
                                    "clip",
                                    "step_ms",
                                    "step_ms_min",
                                    "step_ms_max",
                                    "bytes_per_parameter",
                                    "gb_per_s",
                                    "floor_ms",
                                    "floor_ratio",
                                    "exposed_ms",
                                    "wrong"};

std::vector<std::string> Words(const std::string& line) { return absl::StrSplit(line, ' ', absl::SkipEmpty()); }

BenchRow Row() {
  BenchRow row;
  row.step.ranks = 2;
  row.parameters = 1000000;
  row.wire = "exact";
  row.max_norm = 0.5;
  row.step_ms = {9, 4, 5};
  row.gradient_ms = {1, 3, 2};
  row.update_ms = {2, 1, 7};
  row.wrong = 0;
  return row;
}

TEST(BenchReportTest, MediansOfOddAndEvenMany) {
  EXPECT_EQ(Median({}), 0);
  EXPECT_EQ(Median({3}), 3);
  EXPECT_EQ(Median({3, 1}), 2);
  EXPECT_EQ(Median({9, 1, 4}), 4);
  EXPECT_EQ(Median({8, 1, 100, 4}), 6);
}

TEST(BenchReportTest, RatiosAreOfMedians) {
  BenchRow row = Row();
  EXPECT_EQ(row.floor_ms(), 2 + 2);
  EXPECT_EQ(row.exposed_ms(), 5);
  EXPECT_EQ(row.floor_ratio(), 5.0 / 4);
  row.compute_ms = {1, 2, 30};
  EXPECT_EQ(row.exposed_ms(), 5 - 2);
  EXPECT_EQ(row.floor_ms(), 4);
  EXPECT_EQ(row.floor_ratio(), 5.0 / 4);
  row.compute_ms = {4.5, 4.5, 30};
  EXPECT_EQ(row.floor_ms(), 4.5);
  EXPECT_EQ(row.floor_ratio(), 5 / 4.5);
}

TEST(BenchReportTest, ColumnsInTheirOrder) {
  EXPECT_THAT(Words(BenchHeader()), ElementsAreArray(kColumns));
  const std::string line = BenchLine(Row());
  EXPECT_EQ(line.size(), BenchHeader().size());
  const std::vector<std::string> expected = {"1000000", "2",    "1",     "adamw", "fp32",  "exact",
                                             "shared",  "1",    "0.5",   "5.000", "4.000", "9.000",
                                             "34",      "6.80", "4.000", "1.250", "5.000", "0"};
  EXPECT_THAT(Words(line), ElementsAreArray(expected));
}

TEST(BenchReportTest, TheCaseIsInTheLine) {
  BenchRow row = Row();
  row.step = {.ranks = 8, .hosts = 2, .update = {.rule = Rule::kLion, .master = Master::kSplit}, .micro_steps = 3};
  row.wire = "host_sum";
  row.max_norm.reset();
  row.wrong.reset();
  std::vector<std::string> words = Words(BenchLine(row));
  ASSERT_THAT(words, SizeIs(std::size(kColumns)));
  words.resize(9);
  EXPECT_THAT(words, testing::ElementsAre("1000000", "8", "2", "lion", "split", "host_sum", "shared", "3", "off"));
  EXPECT_EQ(Words(BenchLine(row)).back(), "-");
  row.step.private_weights = true;
  row.wrong = 17;
  EXPECT_EQ(Words(BenchLine(row))[6], "private");
  EXPECT_EQ(Words(BenchLine(row)).back(), "17");
}

TEST(BenchReportTest, JsonHasTheSameKeysAndValues) {
  const std::string text = BenchJson(Row());
  const auto json = nlohmann::ordered_json::parse(text);
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  EXPECT_THAT(keys, ElementsAreArray(kColumns));
  EXPECT_THAT(text, testing::Not(HasSubstr("\n")));
  const std::vector<std::string> words = Words(BenchLine(Row()));
  for (size_t i = 0; i < keys.size(); ++i) {
    const auto& value = json[keys[i]];
    if (value.is_string()) {
      EXPECT_EQ(value.get<std::string>(), words[i]) << keys[i];
    } else {
      ASSERT_TRUE(value.is_number()) << keys[i];
      EXPECT_EQ(value.get<double>(), std::stod(words[i])) << keys[i];
    }
  }
}

TEST(BenchReportTest, JsonHasNullForWhatIsMissing) {
  BenchRow row = Row();
  row.max_norm.reset();
  row.wrong.reset();
  const auto json = nlohmann::json::parse(BenchJson(row));
  EXPECT_TRUE(json["wrong"].is_null());
  EXPECT_EQ(json["clip"], "off");
  // Nothing was measured.
  row.step_ms.clear();
  row.gradient_ms.clear();
  row.update_ms.clear();
  const auto empty = nlohmann::json::parse(BenchJson(row), nullptr, /*allow_exceptions=*/false);
  ASSERT_FALSE(empty.is_discarded()) << BenchJson(row);
  EXPECT_TRUE(empty["floor_ratio"].is_null());
  EXPECT_TRUE(empty["gb_per_s"].is_null());
}

TEST(BenchReportTest, LinesAreAppended) {
  const std::string file = testing::TempDir() + "/bench_report_test.jsonl";
  std::remove(file.c_str());
  ASSERT_TRUE(AppendText(file, "one\n").ok());
  ASSERT_TRUE(AppendText(file, "two\n").ok());
  std::stringstream text;
  text << std::ifstream(file).rdbuf();
  EXPECT_EQ(text.str(), "one\ntwo\n");
}

TEST(BenchReportTest, ErrorsNameTheFile) {
  for (const std::string file : {"/no/such/directory/a.jsonl", "/dev/full", "/"}) {
    const absl::Status status = AppendText(file, "one\n");
    EXPECT_EQ(ExitCodeOf(status, Phase::kRun), ExitCode::kIo) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(file));
  }
}

}  // namespace
}  // namespace shardstep
