#include "shardstep/tools/train/progress.h"

#include <gtest/gtest.h>

#include <limits>
#include <sstream>

namespace shardstep {
namespace {

StepProgress Example() {
  return {.step = 12,
          .steps = 200,
          .bits_per_byte = 3.25,
          .gradient_norm = 1.5,
          .clip_factor = 0.666,
          .applied = true,
          .tokens_per_second = 52100,
          .forward_ms = 10.25,
          .backward_ms = 20.5,
          .exposed_step_ms = 0.75,
          .eta_seconds = 187};
}
constexpr char kExample[] =
    "step 12/200  bits/byte 3.2500  norm 1.5  clip 0.666  52.1k tokens/s  forward 10.2 ms  backward 20.5 ms  "
    "exposed step 0.8 ms  ETA 3 min 07 s";

TEST(FormatProgressTest, ShowsEveryNumber) { EXPECT_EQ(FormatProgress(Example()), kExample); }

TEST(FormatProgressTest, ASkippedStepSaysSo) {
  StepProgress skipped = Example();
  skipped.applied = false;
  skipped.gradient_norm.reset();
  EXPECT_EQ(FormatProgress(skipped).substr(0, 40), "step 12/200  bits/byte 3.2500  SKIPPED  ");
}

TEST(FormatDurationTest, PicksUnits) {
  EXPECT_EQ(FormatDuration(0), "0 s");
  EXPECT_EQ(FormatDuration(59.6), "1 min 00 s");
  EXPECT_EQ(FormatDuration(7500), "2 h 05 min");
  EXPECT_EQ(FormatDuration(-1), "?");
  EXPECT_EQ(FormatDuration(std::numeric_limits<double>::quiet_NaN()), "?");
  EXPECT_EQ(FormatDuration(std::numeric_limits<double>::infinity()), "?");
}

TEST(ProgressLineTest, OverwritesItselfOnATerminal) {
  std::ostringstream out;
  {
    ProgressLine line(out, 400);
    line.Print("start");
    line.Show(Example());
    line.Show(Example());
    line.Print("saved");
  }
  const std::string example = kExample;
  EXPECT_EQ(out.str(), "start\n\r\x1b[K" + example + "\r\x1b[K" + example + "\r\x1b[Ksaved\n" + example + "\n");
}

TEST(ProgressLineTest, IsCutToTheTerminal) {
  std::ostringstream out;
  {
    ProgressLine line(out, 20);
    line.Show({.step = 1, .steps = 2});
  }
  EXPECT_EQ(out.str(), "\r\x1b[K" + FormatProgress({.step = 1, .steps = 2}).substr(0, 19) + "\n");
}

TEST(ProgressLineTest, IsOneLinePerStepElsewhere) {
  std::ostringstream out;
  {
    ProgressLine line(out, 0);
    line.Show(Example());
    line.Print("saved");
    line.Show(Example());
  }
  EXPECT_EQ(out.str(), std::string(kExample) + "\nsaved\n" + kExample + "\n");
}

}  // namespace
}  // namespace shardstep
