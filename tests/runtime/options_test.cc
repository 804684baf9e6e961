// X1: every knob of the optimizer with nan, inf, -1, 0, 1e39 and unknown values is refused by name, or is legal.
#include "shardstep/runtime/options.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "shardstep/proto/options.pb.h"
#include "shardstep/proto/record.pb.h"
#include "shardstep/runtime/step_record.h"

namespace shardstep {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

proto::Optimizer Message(const std::string& text) {
  proto::Optimizer message;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &message)) << text;
  return message;
}

struct Knob {
  std::string text;     // what the file says
  std::string refusal;  // the start of the message, "" when legal
};

class KnobTest : public ::testing::TestWithParam<Knob> {};

TEST_P(KnobTest, X1IsRefusedByNameOrLegal) {
  const auto options = OptionsFromProto(Message(GetParam().text));
  if (GetParam().refusal.empty()) {
    EXPECT_TRUE(options.ok()) << options.status();
  } else {
    ASSERT_EQ(options.status().code(), absl::StatusCode::kInvalidArgument) << GetParam().text;
    EXPECT_THAT(std::string(options.status().message()), StartsWith(GetParam().refusal));
  }
}

std::vector<Knob> Knobs() {
  std::vector<Knob> knobs;
  const auto group = [&](const std::string& field, const std::string& value, bool legal) {
    const std::string path = "group[1]." + field + " = ";
    knobs.push_back({"group {} group { " + field + ": " + value + " }", legal ? "" : path});
  };
  for (const std::string beta : {"beta1", "beta2"}) {
    for (const std::string bad : {"nan", "inf", "-inf", "-1", "1", "0.99999999999", "1e39"}) group(beta, bad, false);
    for (const std::string good : {"0", "0.5", "0.9999999"}) group(beta, good, true);
  }
  for (const std::string bad : {"nan", "inf", "-1", "0", "1e39", "1e-60"}) group("epsilon", bad, false);
  for (const std::string good : {"1e-45", "1", "1e38"}) group("epsilon", good, true);
  for (const std::string factor : {"weight_decay", "learning_rate_factor"}) {
    for (const std::string bad : {"nan", "inf", "-1", "-1e-300", "1e39"}) group(factor, bad, false);
    for (const std::string good : {"0", "1", "1e38"}) group(factor, good, true);
  }
  for (const std::string bad : {"nan", "inf", "-inf", "-1", "0", "1e+39", "2592001"}) {
    knobs.push_back({"wait_deadline_seconds: " + bad, "wait_deadline_seconds = " + bad});
  }
  knobs.push_back({"wait_deadline_seconds: 0.001", ""});
  const auto integer = [&](const std::string& field, const std::string& smallest, const std::string& below,
                           const std::string& largest, const std::string& above) {
    for (const std::string& good : {smallest, largest}) knobs.push_back({field + ": " + good, ""});
    for (const std::string& bad : {below, above, std::string("-1")}) {
      if (!bad.empty()) knobs.push_back({field + ": " + bad, field + " = " + bad});
    }
  };
  integer("bucket_bytes", "1", "0", "1099511627776", "1099511627777");
  integer("update_threads", "0", "-2", "1024", "1025");
  integer("micro_steps", "1", "0", "16777215", "16777216");
  integer("max_consecutive_skips", "1", "0", "9223372036854775807", "");
  integer("keep_checkpoints", "1", "0", "2147483647", "");
  for (const std::string good : {"SKIP", "ERROR", "IGNORE"}) knobs.push_back({"non_finite: " + good, ""});
  knobs.push_back({"non_finite: NON_FINITE_UNSPECIFIED", "non_finite = NON_FINITE_UNSPECIFIED"});
  for (const std::string good : {"ZERO", "REFUSE"}) knobs.push_back({"missing_gradient: " + good, ""});
  knobs.push_back({"missing_gradient: MISSING_GRADIENT_UNSPECIFIED", "missing_gradient = MISSING_GRADIENT_UNSPEC"});
  return knobs;
}
INSTANTIATE_TEST_SUITE_P(Every, KnobTest, ::testing::ValuesIn(Knobs()));

TEST(OptionsTest, DefaultsOfTheMessageAreThoseOfTheStruct) {
  const auto options = OptionsFromProto(proto::Optimizer());
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(DescribeOptions(*options), DescribeOptions(OptimizerOptions()));
}

TEST(OptionsTest, EveryFieldIsTakenOver) {
  const auto options = OptionsFromProto(Message(R"pb(
    group { beta1: 0.5 beta2: 0.25 epsilon: 0.125 weight_decay: 2 learning_rate_factor: 3 }
    group {}
    bucket_bytes: 4
    update_threads: 5
    micro_steps: 6
    non_finite: ERROR
    max_consecutive_skips: 7
    missing_gradient: REFUSE
    accumulate_gradients: true
    wait_deadline_seconds: 0.1
    keep_checkpoints: 8)pb"));
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_THAT(
      DescribeOptions(*options),
      ElementsAre("group[0].beta1 = 0.5", "group[0].beta2 = 0.25", "group[0].epsilon = 0.125",
                  "group[0].weight_decay = 2", "group[0].learning_rate_factor = 3", "group[1].beta1 = 0.9",
                  "group[1].beta2 = 0.999", "group[1].epsilon = 1e-08", "group[1].weight_decay = 0.01",
                  "group[1].learning_rate_factor = 1", "bucket_bytes = 4", "update_threads = 5", "micro_steps = 6",
                  "non_finite = ERROR", "max_consecutive_skips = 7", "missing_gradient = REFUSE",
                  "accumulate_gradients = true", "wait_deadline_seconds = 0.1", "keep_checkpoints = 8"));
}

TEST(OptionsTest, NoFieldIsLeftOutOfTheDescription) {
  const std::vector<std::string> lines = DescribeOptions(OptimizerOptions());
  const auto expect_lines = [&](const google::protobuf::Descriptor* message, const std::string& path) {
    for (int i = 0; i < message->field_count(); ++i) {
      if (message->field(i)->message_type() != nullptr) continue;
      EXPECT_THAT(lines, Contains(StartsWith(path + message->field(i)->name() + " = ")));
    }
  };
  expect_lines(proto::Optimizer::descriptor(), "");
  expect_lines(proto::AdamW::descriptor(), "group[0].");
}

TEST(OptionsTest, DescriptionTellsNeighbouringDoublesApart) {
  OptimizerOptions options;
  options.groups[0].beta2 = std::nextafter(0.999, 1.0);
  EXPECT_THAT(DescribeOptions(options), Contains("group[0].beta2 = 0.9990000000000001"));
}

TEST(OptionsTest, StructsMadeByHandAreValidatedToo) {
  OptimizerOptions options;
  options.groups.clear();
  EXPECT_THAT(std::string(ValidateOptions(options).message()), HasSubstr("number of groups = 0"));
  options = {};
  options.non_finite = static_cast<NonFinitePolicy>(17);
  EXPECT_THAT(std::string(ValidateOptions(options).message()), StartsWith("non_finite = 17"));
  options = {};
  options.missing_gradient = static_cast<MissingGradientPolicy>(-3);
  EXPECT_THAT(std::string(ValidateOptions(options).message()), StartsWith("missing_gradient = -3"));
  options = {};
  options.wait_deadline = absl::InfiniteDuration();
  EXPECT_THAT(std::string(ValidateOptions(options).message()), StartsWith("wait_deadline_seconds = inf"));
}

TEST(StepRecordTest, EveryFieldReachesTheMessage) {
  StepRecord record{
      .step = 1,
      .applied_steps = 2,
      .applied = true,
      .consecutive_skips = 3,
      .skipped_steps = 4,
      .micro_steps = 5,
      .micro_batches = 6,
      .learning_rate = 0.5,
      .gradient_norm = 7.5,
      .clip_factor = 0.25,
      .non_finite = NonFinitePlace{.micro_batch = 8, .rank = 9, .parameter = "w", .element = 10, .sum_overflow = true},
      .scale_overflow = true,
      .step_ns = 11,
      .exposed_ns = 12};
  proto::StepRecord message;
  message.add_inexact_mode("stale");
  ToProto(record, &message);
  EXPECT_EQ(message.ShortDebugString(),
            "step: 1 applied_steps: 2 applied: true consecutive_skips: 3 skipped_steps: 4 micro_steps: 5 "
            "micro_batches: 6 learning_rate: 0.5 gradient_norm: 7.5 clip_factor: 0.25 non_finite { micro_batch: 8 "
            "rank: 9 parameter: \"w\" element: 10 sum_overflow: true } scale_overflow: true step_ns: 11 "
            "exposed_ns: 12");
  record.gradient_norm.reset();
  record.non_finite.reset();
  ToProto(record, &message);
  EXPECT_FALSE(message.has_gradient_norm());
  EXPECT_FALSE(message.has_non_finite());
}

}  // namespace
}  // namespace shardstep
