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
    const std::string rule = field.substr(0, field.find('.'));
    const std::string name = field.substr(field.find('.') + 1);
    knobs.push_back(
        {"group {} group { " + rule + " { " + name + ": " + value + " } }", legal ? "" : "group[1]." + field + " = "});
  };
  for (const std::string beta : {"adamw.beta1", "adamw.beta2", "sgd.momentum", "lion.beta1", "lion.beta2"}) {
    for (const std::string bad : {"nan", "inf", "-inf", "-1", "1", "0.99999999999", "1e39"}) group(beta, bad, false);
    for (const std::string good : {"0", "0.5", "0.9999999"}) group(beta, good, true);
  }
  for (const std::string bad : {"nan", "inf", "-1", "0", "1e39", "1e-60"}) group("adamw.epsilon", bad, false);
  for (const std::string good : {"1e-45", "1", "1e38"}) group("adamw.epsilon", good, true);
  for (const std::string rule : {"adamw.", "sgd.", "lion."}) {
    for (const std::string factor : {"weight_decay", "learning_rate_factor"}) {
      for (const std::string bad : {"nan", "inf", "-1", "-1e-300", "1e39"}) group(rule + factor, bad, false);
      for (const std::string good : {"0", "1", "1e38"}) group(rule + factor, good, true);
    }
  }
  group("sgd.nesterov", "true", false);
  group("sgd.nesterov", "false", true);
  knobs.push_back({"group { sgd { momentum: 0.9 nesterov: true } }", ""});
  for (const std::string good : {"FP32", "SPLIT", "NONE"}) knobs.push_back({"group { master: " + good + " }", ""});
  knobs.push_back({"group { master: MASTER_UNSPECIFIED }", "group[0].master = MASTER_UNSPECIFIED"});
  knobs.push_back({"group { rounding: NEAREST }", ""});
  knobs.push_back({"group { rounding: ROUNDING_UNSPECIFIED }", "group[0].rounding = ROUNDING_UNSPECIFIED"});
  knobs.push_back({"group { master: NONE rounding: STOCHASTIC }", ""});
  knobs.push_back({"group {} group { master: SPLIT rounding: STOCHASTIC }", "group[1].rounding = STOCHASTIC"});
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
  integer("sum_group", "1", "0", "16777215", "16777216");
  integer("max_message_bytes", "4096", "4095", "1099511627776", "1099511627777");
  for (const std::string good : {"0", "18446744073709551615"}) knobs.push_back({"rounding_seed: " + good, ""});
  for (const std::string good : {"SHARED", "PRIVATE"}) knobs.push_back({"weights: " + good, ""});
  knobs.push_back({"weights: WEIGHTS_UNSPECIFIED", "weights = WEIGHTS_UNSPECIFIED"});
  for (const std::string good : {"SHARDED", "LOCAL"}) knobs.push_back({"accumulation: " + good, ""});
  knobs.push_back({"accumulation: ACCUMULATION_UNSPECIFIED", "accumulation = ACCUMULATION_UNSPECIFIED"});
  for (const std::string good : {"EXACT", "ROUNDED"}) knobs.push_back({"host_sum: " + good, ""});
  knobs.push_back({"host_sum: HOST_SUM_UNSPECIFIED", "host_sum = HOST_SUM_UNSPECIFIED"});
  // X2: each is good, together they contradict each other.
  knobs.push_back({"accumulation: LOCAL sum_group: 2", "sum_group = 2"});
  knobs.push_back({"parameter_norms: true", ""});
  knobs.push_back({"parameter_norms: true non_finite: IGNORE", "parameter_norms = true"});
  knobs.push_back({"host_sum: ROUNDED sum_group: 2", "sum_group = 2"});
  knobs.push_back({"accumulation: LOCAL host_sum: ROUNDED", "host_sum = ROUNDED"});
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
    group { adamw { beta1: 0.5 beta2: 0.25 epsilon: 0.125 weight_decay: 2 learning_rate_factor: 3 } }
    group {}
    group {
      sgd { momentum: 0.5 nesterov: true weight_decay: 2 learning_rate_factor: 3 }
      master: NONE
      rounding: STOCHASTIC
    }
    group {
      lion { beta1: 0.5 beta2: 0.25 weight_decay: 2 learning_rate_factor: 3 }
      master: SPLIT
    }
    bucket_bytes: 4
    update_threads: 5
    micro_steps: 6
    non_finite: ERROR
    max_consecutive_skips: 7
    missing_gradient: REFUSE
    accumulate_gradients: true
    wait_deadline_seconds: 0.1
    keep_checkpoints: 8
    weights: PRIVATE
    accumulation: LOCAL
    rounding_seed: 9
    max_message_bytes: 10000
    parameter_norms: true)pb"));
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_THAT(
      DescribeOptions(*options),
      ElementsAre("group[0].adamw.beta1 = 0.5", "group[0].adamw.beta2 = 0.25", "group[0].adamw.epsilon = 0.125",
                  "group[0].adamw.weight_decay = 2", "group[0].adamw.learning_rate_factor = 3",
                  "group[0].master = FP32", "group[0].rounding = NEAREST", "group[1].adamw.beta1 = 0.9",
                  "group[1].adamw.beta2 = 0.999", "group[1].adamw.epsilon = 1e-08",
                  "group[1].adamw.weight_decay = 0.01", "group[1].adamw.learning_rate_factor = 1",
                  "group[1].master = FP32", "group[1].rounding = NEAREST", "group[2].sgd.momentum = 0.5",
                  "group[2].sgd.nesterov = true", "group[2].sgd.weight_decay = 2",
                  "group[2].sgd.learning_rate_factor = 3", "group[2].master = NONE", "group[2].rounding = STOCHASTIC",
                  "group[3].lion.beta1 = 0.5", "group[3].lion.beta2 = 0.25", "group[3].lion.weight_decay = 2",
                  "group[3].lion.learning_rate_factor = 3", "group[3].master = SPLIT", "group[3].rounding = NEAREST",
                  "bucket_bytes = 4", "update_threads = 5", "micro_steps = 6", "non_finite = ERROR",
                  "max_consecutive_skips = 7", "missing_gradient = REFUSE", "accumulate_gradients = true",
                  "wait_deadline_seconds = 0.1", "keep_checkpoints = 8", "weights = PRIVATE", "accumulation = LOCAL",
                  "sum_group = 1", "host_sum = EXACT", "rounding_seed = 9", "max_message_bytes = 10000",
                  "parameter_norms = true"));
}

TEST(OptionsTest, SumsAreTakenOver) {
  const auto groups = OptionsFromProto(Message("sum_group: 2"));
  ASSERT_TRUE(groups.ok()) << groups.status();
  EXPECT_EQ(groups->sum_group, 2);
  EXPECT_THAT(InexactModes(*groups), ElementsAre());
  const auto rounded = OptionsFromProto(Message("host_sum: ROUNDED"));
  ASSERT_TRUE(rounded.ok()) << rounded.status();
  EXPECT_THAT(InexactModes(*rounded), ElementsAre("host_sum: ROUNDED"));
  const auto local = OptionsFromProto(Message("accumulation: LOCAL"));
  ASSERT_TRUE(local.ok()) << local.status();
  EXPECT_THAT(InexactModes(*local), ElementsAre("accumulation: LOCAL"));
}

TEST(OptionsTest, NoFieldIsLeftOutOfTheDescription) {
  OptimizerOptions options;
  options.groups = {{.rule = AdamWOptions()}, {.rule = SgdOptions()}, {.rule = LionOptions()}};
  const std::vector<std::string> lines = DescribeOptions(options);
  const auto expect_lines = [&](const google::protobuf::Descriptor* message, const std::string& path) {
    for (int i = 0; i < message->field_count(); ++i) {
      if (message->field(i)->message_type() != nullptr) continue;
      EXPECT_THAT(lines, Contains(StartsWith(path + message->field(i)->name() + " = ")));
    }
  };
  expect_lines(proto::Optimizer::descriptor(), "");
  expect_lines(proto::Group::descriptor(), "group[0].");
  expect_lines(proto::AdamW::descriptor(), "group[0].adamw.");
  expect_lines(proto::Sgd::descriptor(), "group[1].sgd.");
  expect_lines(proto::Lion::descriptor(), "group[2].lion.");
}

TEST(OptionsTest, DescriptionTellsNeighbouringDoublesApart) {
  OptimizerOptions options;
  options.groups[0].rule = AdamWOptions{.beta2 = std::nextafter(0.999, 1.0)};
  EXPECT_THAT(DescribeOptions(options), Contains("group[0].adamw.beta2 = 0.9990000000000001"));
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
      .exposed_ns = 12,
      .parameter_norms = {0.5, 2}};
  proto::StepRecord message;
  message.add_inexact_mode("stale");
  ToProto(record, &message);
  EXPECT_EQ(message.ShortDebugString(),
            "step: 1 applied_steps: 2 applied: true consecutive_skips: 3 skipped_steps: 4 micro_steps: 5 "
            "micro_batches: 6 learning_rate: 0.5 gradient_norm: 7.5 clip_factor: 0.25 non_finite { micro_batch: 8 "
            "rank: 9 parameter: \"w\" element: 10 sum_overflow: true } scale_overflow: true step_ns: 11 "
            "exposed_ns: 12 parameter_norm: 0.5 parameter_norm: 2");
  record.gradient_norm.reset();
  record.non_finite.reset();
  ToProto(record, &message);
  EXPECT_FALSE(message.has_gradient_norm());
  EXPECT_FALSE(message.has_non_finite());
}

}  // namespace
}  // namespace shardstep
