#include "shardstep/tools/train/training_plot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"

namespace shardstep {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// With a gnuplot that does nothing but say that it was there.
class TrainingPlotTest : public ::testing::Test {
 protected:
  TrainingPlotTest()
      : folder_(std::filesystem::path(::testing::TempDir()) / absl::StrCat("training_plot_test.", getpid())) {
    std::filesystem::create_directories(folder_ / "bin");
    std::ofstream(folder_ / "bin/gnuplot") << "#!/bin/sh\n[ \"$1\" = --version ] || echo \"$1\" >drawn\n";
    std::filesystem::permissions(folder_ / "bin/gnuplot", std::filesystem::perms::owner_all);
    setenv("PATH", absl::StrCat((folder_ / "bin").string(), ":", std::getenv("PATH")).c_str(), 1);
  }
  ~TrainingPlotTest() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<TrainingPlot> Begin(int64_t after_step) {
    auto plot = TrainingPlot::Create(folder_ / "run");
    EXPECT_TRUE(plot.ok()) << plot.status();
    EXPECT_TRUE((*plot)->Begin(after_step).ok());
    return *std::move(plot);
  }
  static TrainedStep Step(int64_t step) {
    StepRecord record;
    record.step = step;
    record.exposed_ns = 250'000;
    record.step_ns = 1'500'000;
    return {.record = record, .bits_per_byte = 2.5, .tokens_per_second = 1, .forward_ms = 10, .backward_ms = 20};
  }
  std::string Read(const char* name) const {
    std::stringstream text;
    text << std::ifstream(folder_ / name).rdbuf();
    return text.str();
  }

  const std::filesystem::path folder_;
};

TEST_F(TrainingPlotTest, WritesWhatItDraws) {
  const auto plot = Begin(0);
  ASSERT_TRUE(plot->AddStep(Step(1)).ok());
  ASSERT_TRUE(plot->AddHeldOut(1, 3.5).ok());
  ASSERT_TRUE(plot->Draw().ok());
  EXPECT_EQ(Read("run.steps.dat"),
            "# step bits_per_byte forward_ms backward_ms exposed_ms step_ms\n1 2.5 10 20 0.25 1.5\n");
  EXPECT_EQ(Read("run.held_out.dat"), "# step bits_per_byte\n1 3.5\n");
  EXPECT_EQ(Read("drawn"), "run.gp\n");
  EXPECT_EQ(Read("run.gp"), TrainingPlotScript("run", true));
}

TEST_F(TrainingPlotTest, AResumedRunKeepsTheStepsBeforeIt) {
  {
    const auto plot = Begin(0);
    for (int64_t step = 1; step <= 5; ++step) ASSERT_TRUE(plot->AddStep(Step(step)).ok());
    for (const int64_t step : {2, 4}) ASSERT_TRUE(plot->AddHeldOut(step, 3).ok());
  }
  {
    const auto plot = Begin(3);
    ASSERT_TRUE(plot->AddStep(Step(4)).ok());
  }
  EXPECT_EQ(Read("run.steps.dat"),
            "# step bits_per_byte forward_ms backward_ms exposed_ms step_ms\n1 2.5 10 20 0.25 1.5\n"
            "2 2.5 10 20 0.25 1.5\n3 2.5 10 20 0.25 1.5\n4 2.5 10 20 0.25 1.5\n");
  EXPECT_EQ(Read("run.held_out.dat"), "# step bits_per_byte\n2 3\n");
  Begin(0);
  EXPECT_EQ(Read("run.held_out.dat"), "# step bits_per_byte\n") << "a fresh run starts from nothing";
}

TEST_F(TrainingPlotTest, DrawsNothingOfNothing) {
  const auto plot = Begin(0);
  EXPECT_TRUE(plot->Draw().ok());
  EXPECT_EQ(Read("drawn"), "");
}

TEST_F(TrainingPlotTest, NamesTheFileThatItCannotWrite) {
  auto plot = TrainingPlot::Create(folder_ / "missing/run");
  ASSERT_TRUE(plot.ok());
  EXPECT_THAT(std::string((*plot)->Begin(0).message()), HasSubstr((folder_ / "missing/run.steps.dat").string()));
}

TEST(TrainingPlotScriptTest, HasEveryPictureAndOnlyCurvesThatThereAre) {
  const std::string script = TrainingPlotScript("it's STEPS", true);
  for (const char* text : {"plot 'it''s STEPS.steps.dat'", "'it''s STEPS.held_out.dat' using 1:2",
                           "set output 'it''s STEPS.loss.svg'", "set output 'it''s STEPS.loss.png'",
                           "set output 'it''s STEPS.phases.svg'", "set output 'it''s STEPS.phases.png'"}) {
    EXPECT_THAT(script, HasSubstr(text));
  }
  for (const char* text : {"KIND", "PICTURE", "HELD_OUT"}) EXPECT_THAT(script, Not(HasSubstr(text)));
  // What an axis leaves out, gnuplot's statistics do too: the second pass must not see the first one's axes.
  const std::string second = script.substr(script.find("set terminal png"));
  EXPECT_LT(second.find("set yrange [*:*]"), second.find("\nstats "));
  EXPECT_LT(second.find("set xrange [*:*]"), second.find("\nstats "));
  EXPECT_THAT(TrainingPlotScript("run", false), Not(HasSubstr("held")));
}

}  // namespace
}  // namespace shardstep
