#include "shardstep/tools/precision/precision_results.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_split.h"

namespace shardstep {
namespace {

using ::testing::HasSubstr;

const PrecisionResults& SmallResults() {
  static const PrecisionResults results = ComputePrecisionResults(
      {.steps = 50, .stochastic_weights = 3, .elements = 16, .max_count = 8, .max_ranks = 4, .seed = 5});
  return results;
}

std::vector<std::string> Lines(const std::string& text) { return absl::StrSplit(text, '\n', absl::SkipEmpty()); }

TEST(PrecisionJsonTest, HasEveryResult) {
  const auto json = nlohmann::json::parse(PrecisionJson(SmallResults()));
  std::set<std::string> keys;
  for (const auto& item : json.items()) keys.insert(item.key());
  EXPECT_EQ(keys, (std::set<std::string>{"options", "one_update", "many_updates", "micro_gradient_sums", "rank_sums",
                                         "formats", "round_trips"}));
  EXPECT_EQ(json["options"]["seed"], 5);
  EXPECT_EQ(json["one_update"]["weight_bf16"].get<double>(), 1.234375);
  EXPECT_EQ(json["one_update"]["half_ulp"].get<double>(), 0.00390625);
  EXPECT_EQ(json["one_update"]["update"].get<double>(), SmallResults().one_update.update) << "all digits";
  EXPECT_EQ(json["many_updates"]["weights"].size(), 51u);
  EXPECT_EQ(json["many_updates"]["weights"].back()["step"], 50);
  EXPECT_EQ(json["many_updates"]["weights"].back()["bf16_nearest"].get<double>(), 1.234375);
  ASSERT_EQ(json["micro_gradient_sums"].size(), 3u);
  EXPECT_EQ(json["micro_gradient_sums"][2]["count"], 8);
  EXPECT_EQ(json["micro_gradient_sums"][2]["bf16"].get<double>(), SmallResults().micro_gradient_sums[2].bf16);
  EXPECT_EQ(json["rank_sums"].size(), 2u);
  EXPECT_EQ(json["rank_sums"][1]["fp32_then_bf16"].get<double>(), SmallResults().rank_sums[1].fp32_then_bf16);
  EXPECT_EQ(json["formats"][0]["name"], "fp16");
  EXPECT_EQ(json["round_trips"].back()["fp16"], "inf") << "JSON has no infinity";
}

TEST(PrecisionTablesTest, ShowExactFiguresInAHundredColumns) {
  const std::string tables = PrecisionTables(SmallResults());
  for (const char* figure : {"1.234375   unchanged", "1.2265625 and 1.2421875", "0.00390625", "1.23446\n", "overflow",
                             "lost", "2049", "257", "The same update 50 times"}) {
    EXPECT_THAT(tables, HasSubstr(figure));
  }
  for (const std::string& line : Lines(tables)) EXPECT_LE(line.size(), 100u) << line;
}

TEST(PrecisionPlotsTest, TheScriptDrawsEveryDataFileAsSvgAndPng) {
  std::vector<PlotFile> files = PrecisionPlots(SmallResults());
  ASSERT_EQ(files.back().name, "plots.gp");
  const std::string script = files.back().text;
  files.pop_back();
  ASSERT_EQ(files.size(), 3u);
  for (const PlotFile& file : files) {
    const std::string stem = file.name.substr(0, file.name.find('.'));
    EXPECT_THAT(script, HasSubstr("plot \"" + file.name + "\""));
    EXPECT_THAT(script, HasSubstr("set output \"" + stem + ".svg\""));
    EXPECT_THAT(script, HasSubstr("set output \"" + stem + ".png\""));
  }
  EXPECT_EQ(Lines(files[0].text).size(), 52u) << "a comment and steps 0 to 50";
  EXPECT_EQ(Lines(files[1].text).size(), 4u) << "a comment and counts 2, 4, 8";
}

TEST(PrecisionPlotsTest, AnErrorOfZeroIsMarkedAsMissing) {
  PrecisionResults results;
  results.micro_gradient_sums = {{.count = 2, .bf16 = 0.5, .fp32 = 0, .fp32_then_bf16 = 0.25}};
  EXPECT_EQ(Lines(PrecisionPlots(results)[1].text).back(), "2 0.5 ? 0.25");
}

}  // namespace
}  // namespace shardstep
