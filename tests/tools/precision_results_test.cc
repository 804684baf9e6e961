#include "shardstep/tools/precision/precision_results.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_split.h"

namespace shardstep {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

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

PrecisionResults TrainedResults() {
  PrecisionResults results = SmallResults();
  results.trainings = {.parameters = 77, .settings = "a model\nand how", .runs = {}};
  for (const char* name : {"FP32", "SPLIT", "NONE, nearest", "NONE, stochastic"}) {
    const double worse = 0.25 * static_cast<double>(results.trainings.runs.size());
    results.trainings.runs.push_back(
        {.name = name, .master_bytes = 4, .held_out = {{.step = 5, .bits_per_byte = 4}, {10, 3 + worse}}});
  }
  return results;
}

TEST(PrecisionTablesTest, TrainingsAreComparedWithFp32) {
  EXPECT_THAT(PrecisionTables(SmallResults()), Not(HasSubstr("(e)"))) << "only when asked for";
  const std::string tables = PrecisionTables(TrainedResults());
  for (const char* text : {"(e) A byte-level GPT of 77 parameters, trained 4 times", "    and how\n"}) {
    EXPECT_THAT(tables, HasSubstr(text));
  }
  EXPECT_THAT(tables, ContainsRegex("FP32 +4 +3.0000 +.0.0000\n"));
  EXPECT_THAT(tables, ContainsRegex("NONE, nearest +4 +3.5000 +.0.5000\n"));
  for (const std::string& line : Lines(tables)) EXPECT_LE(line.size(), 100u) << line;
}

TEST(PrecisionJsonTest, HasTheCurvesOfTrainings) {
  EXPECT_FALSE(nlohmann::json::parse(PrecisionJson(SmallResults())).contains("trainings"));
  const auto json = nlohmann::json::parse(PrecisionJson(TrainedResults()))["trainings"];
  EXPECT_EQ(json["parameters"], 77);
  ASSERT_EQ(json["runs"].size(), 4u);
  EXPECT_EQ(json["runs"][2]["master"], "NONE, nearest");
  EXPECT_EQ(json["runs"][2]["held_out"].back()["step"], 10);
  EXPECT_EQ(json["runs"][2]["held_out"].back()["bits_per_byte"].get<double>(), 3.5);
}

TEST(PrecisionPlotsTest, TrainingsAreDrawnWhenThereAreSome) {
  const std::vector<PlotFile> files = PrecisionPlots(TrainedResults());
  ASSERT_EQ(files.size(), 5u);
  EXPECT_EQ(files[3].name, "master_training.dat");
  EXPECT_EQ(Lines(files[3].text).back(), "10 3 3.25 3.5 3.75");
  EXPECT_THAT(files[4].text, HasSubstr("plot \"master_training.dat\""));
}

TEST(PrecisionPlotsTest, AnErrorOfZeroIsMarkedAsMissing) {
  PrecisionResults results;
  results.micro_gradient_sums = {{.count = 2, .bf16 = 0.5, .fp32 = 0, .fp32_then_bf16 = 0.25}};
  EXPECT_EQ(Lines(PrecisionPlots(results)[1].text).back(), "2 0.5 ? 0.25");
}

}  // namespace
}  // namespace shardstep
