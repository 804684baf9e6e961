// X1, X2: every knob of shardstep_train with bad values, and settings that contradict each other, are refused by name.
#include "shardstep/tools/train/train_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shardstep/proto/train.pb.h"

namespace shardstep {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

absl::StatusOr<TrainOptions> Read(std::vector<const char*> arguments) {
  const auto command_line = ParseCommandLine(arguments);
  EXPECT_TRUE(command_line.ok()) << command_line.status();
  return ReadTrainOptions(*command_line);
}

absl::StatusOr<TrainOptions> ReadSetting(const std::string& setting) {
  const std::string data = setting.rfind("data.path=", 0) == 0 ? "--set=evaluation.windows=1" : "--data=x";
  const std::string set = "--set=" + setting;
  return Read({data.c_str(), set.c_str()});
}

std::string UsageError(std::vector<const char*> arguments) {
  const auto command_line = ParseCommandLine(arguments);
  EXPECT_EQ(command_line.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(command_line.status().message());
}

struct Knob {
  std::string path;
  std::vector<std::string> bad;
  std::vector<std::string> good;
};

const std::vector<Knob>& Knobs() {
  static const auto* knobs = new std::vector<Knob>{
      {"data.path", {""}, {"x"}},
      {"model.layers", {"0", "1001"}, {"1", "1000"}},
      {"model.width", {"0", "65537", "256"}, {"3", "65535"}},
      {"model.heads", {"0", "193", "5"}, {"1", "192"}},
      {"model.context", {"0", "65537"}, {"1", "65536"}},
      {"schedule.steps", {"0", "1099511627777", "49"}, {"50", "1099511627776"}},
      {"schedule.micro_batches", {"0", "16777216"}, {"1", "16777215"}},
      {"schedule.sequences", {"0", "65537"}, {"1", "65536"}},
      {"schedule.learning_rate", {"0", "nan", "inf", "1e39", "-1e-3"}, {"1e-3", "1"}},
      {"schedule.warmup_steps", {"1001"}, {"0", "1000"}},
      {"schedule.final_learning_rate_fraction", {"nan", "inf", "1.5", "1e39"}, {"0", "1"}},
      {"schedule.max_norm", {"0", "nan", "inf", "1e39"}, {"1e-3", "1"}},
      {"schedule.seed", {}, {"0", "18446744073709551615"}},
      {"evaluation.interval_steps", {}, {"0", "1"}},
      {"evaluation.windows", {"0", "1048577"}, {"1", "1048576"}},
      {"evaluation.generate_bytes", {"1048577"}, {"0", "1048576"}},
      {"checkpoint.directory", {""}, {"x"}},
      {"checkpoint.interval_steps", {"1"}, {"0"}},
      {"checkpoint.resume", {"true", "2"}, {"false"}},
      {"run.backend", {"BACKEND_UNSPECIFIED", "MPI", "0", "4", "TCP"}, {"SHM", "INPROC"}},
      {"run.ranks", {"0", "257", "1"}, {}},
      {"run.device", {"", "cuda", "CPU", "gpu"}, {"cpu"}},
      {"run.compute_threads", {"0", "1025"}, {"1", "1024"}},
      {"run.stop_after", {"0", "1"}, {}},
      {"run.records", {""}, {"x"}},
      {"run.trace", {""}, {"x"}},
      {"run.poison_step", {"0"}, {"1"}},
      {"run.plot", {"", "pictures/"}, {"x", "pictures/x"}},
      // For TCP only: TcpNeedsAnAddressAndARank.
      {"run.address", {"", "h:1"}, {}},
      {"run.rank", {"0"}, {}},
      {"optimizer.bucket_bytes", {"0"}, {"1"}},
      {"optimizer.update_threads", {"1025"}, {"0"}},
      {"optimizer.micro_steps", {"1", "0"}, {}},
      {"optimizer.non_finite", {"NON_FINITE_UNSPECIFIED", "NEVER"}, {"SKIP", "ERROR", "IGNORE"}},
      {"optimizer.max_consecutive_skips", {"0"}, {"1"}},
      {"optimizer.missing_gradient", {"MISSING_GRADIENT_UNSPECIFIED", "3"}, {"ZERO", "REFUSE"}},
      {"optimizer.accumulate_gradients", {"true"}, {"false"}},
      {"optimizer.wait_deadline_seconds", {"0", "nan", "inf", "1e39"}, {"1"}},
      {"optimizer.keep_checkpoints", {"0"}, {"1"}},
      {"optimizer.weights", {"WEIGHTS_UNSPECIFIED", "BOTH"}, {"SHARED", "PRIVATE"}},
      {"optimizer.accumulation", {"ACCUMULATION_UNSPECIFIED", "3"}, {"SHARDED", "LOCAL"}},
      {"optimizer.sum_group", {"0", "16777216", "nan"}, {"1", "16777215"}},
      {"optimizer.host_sum", {"HOST_SUM_UNSPECIFIED", "BF16"}, {"EXACT", "ROUNDED"}},
      {"optimizer.rounding_seed", {"1.5"}, {"0", "18446744073709551615"}},
      {"optimizer.max_message_bytes", {"0", "4095", "1e39"}, {"4096"}},
      {"optimizer.parameter_norms", {"maybe"}, {"true", "false"}},
      {"optimizer.group[0].master", {"MASTER_UNSPECIFIED", "BF16"}, {"FP32", "SPLIT", "NONE"}},
      // STOCHASTIC is for weights without a master.
      {"optimizer.group[0].rounding", {"ROUNDING_UNSPECIFIED", "STOCHASTIC"}, {"NEAREST"}},
      {"optimizer.group[0].adamw.beta1", {"1", "nan", "inf", "1e39"}, {"0"}},
      {"optimizer.group[0].adamw.beta2", {"1", "nan", "inf", "1e39"}, {"0"}},
      {"optimizer.group[0].adamw.epsilon", {"0", "nan", "inf", "1e39"}, {"1"}},
      {"optimizer.group[0].adamw.weight_decay", {"nan", "inf", "1e39"}, {"0"}},
      {"optimizer.group[0].adamw.learning_rate_factor", {"nan", "inf", "1e39"}, {"0"}},
      {"optimizer.group[0].sgd.momentum", {"1", "nan", "inf", "1e39"}, {"0", "0.9"}},
      // It needs momentum.
      {"optimizer.group[0].sgd.nesterov", {"true"}, {"false"}},
      {"optimizer.group[0].sgd.weight_decay", {"nan", "inf", "1e39"}, {"0"}},
      {"optimizer.group[0].sgd.learning_rate_factor", {"nan", "inf", "1e39"}, {"0"}},
      {"optimizer.group[0].lion.beta1", {"1", "nan", "inf", "1e39"}, {"0"}},
      {"optimizer.group[0].lion.beta2", {"1", "nan", "inf", "1e39"}, {"0"}},
      {"optimizer.group[0].lion.weight_decay", {"nan", "inf", "1e39"}, {"0"}},
      {"optimizer.group[0].lion.learning_rate_factor", {"nan", "inf", "1e39"}, {"0"}},
  };
  return *knobs;
}

bool IsText(const std::string& path) {
  return path == "data.path" || path == "checkpoint.directory" || path == "run.records" || path == "run.plot" ||
         path == "run.trace" || path == "run.address";
}

TEST(TrainOptionsTest, X1EveryKnobIsRefusedByNameOrTaken) {
  for (const Knob& knob : Knobs()) {
    std::vector<std::string> bad = knob.bad;
    if (!IsText(knob.path)) bad.insert(bad.end(), {"-1", "nonsense"});
    for (const std::string& value : bad) {
      const absl::Status status = ReadSetting(knob.path + "=" + value).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << knob.path << " = " << value;
      // The schedule's end is named by the warm-up that does not fit into it.
      const std::string name = knob.path == "schedule.steps" && value == "49" ? "schedule.warmup_steps" : knob.path;
      const bool names_rank = knob.path == "run.backend" && value == "TCP";
      EXPECT_THAT(std::string(status.message()),
                  HasSubstr(name == "model.heads" && value == "5" ? "heads" : (names_rank ? "run.rank" : name)));
    }
    for (const std::string& value : knob.good) {
      EXPECT_TRUE(ReadSetting(knob.path + "=" + value).ok()) << ReadSetting(knob.path + "=" + value).status();
    }
  }
}

void ExpectKnobs(const google::protobuf::Descriptor* message, const std::string& path) {
  for (int i = 0; i < message->field_count(); ++i) {
    const auto* field = message->field(i);
    const std::string name = path + field->name();
    if (field->message_type() != nullptr) {
      ExpectKnobs(field->message_type(), name + (field->is_repeated() ? "[0]." : "."));
      continue;
    }
    EXPECT_TRUE(std::any_of(Knobs().begin(), Knobs().end(), [&](const Knob& knob) { return knob.path == name; }))
        << "no bad values are tried for " << name;
  }
}

TEST(TrainOptionsTest, X1NoKnobIsForgotten) { ExpectKnobs(proto::Train::descriptor(), ""); }

TEST(TrainOptionsTest, X2ContradictionsAreRefused) {
  const auto refusal = [](std::vector<const char*> arguments) {
    arguments.push_back("--data=x");
    const auto options = Read(arguments);
    EXPECT_EQ(options.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(options.status().message());
  };
  EXPECT_THAT(refusal({"--max_norm=1", "--set=optimizer.non_finite=IGNORE"}), StartsWith("schedule.max_norm"));
  EXPECT_THAT(refusal({"--stop_after=3"}), StartsWith("run.stop_after: needs checkpoint.directory"));
  EXPECT_THAT(refusal({"--resume"}), StartsWith("checkpoint.resume"));
  EXPECT_THAT(refusal({"--checkpoint_interval=3"}), StartsWith("checkpoint.interval_steps"));
  EXPECT_THAT(refusal({"--ranks=2"}), StartsWith("run.ranks"));
  EXPECT_THAT(refusal({"--set=optimizer.group[0].adamw.beta1=0", "--set=optimizer.group[1].adamw.beta1=0",
                       "--set=optimizer.group[2].adamw.beta1=0"}),
              StartsWith("optimizer.group[2]"));
  EXPECT_THAT(refusal({"--accumulation=LOCAL", "--sum_group=2"}), StartsWith("optimizer.sum_group = 2"));
  EXPECT_THAT(refusal({"--accumulation=LOCAL", "--host_sum=ROUNDED"}), StartsWith("optimizer.host_sum = ROUNDED"));
  EXPECT_THAT(refusal({"--sum_group=2", "--host_sum=ROUNDED"}), StartsWith("optimizer.sum_group = 2"));
  EXPECT_THAT(refusal({"--rounding=STOCHASTIC", "--master=SPLIT"}), StartsWith("optimizer.group[0].rounding"));
  EXPECT_THAT(refusal({"--rule=sgd", "--nesterov"}), StartsWith("optimizer.group[0].sgd.nesterov"));
}

TEST(TrainOptionsTest, EveryFieldIsTakenOver) {
  const auto options = Read({"--data",
                             "d",
                             "--steps",
                             "200",
                             "--micro_batches",
                             "8",
                             "--sequences",
                             "3",
                             "--learning_rate",
                             "0.5",
                             "--warmup_steps",
                             "7",
                             "--max_norm",
                             "2",
                             "--seed",
                             "9",
                             "--layers",
                             "2",
                             "--width",
                             "12",
                             "--heads",
                             "3",
                             "--context",
                             "5",
                             "--evaluate_interval",
                             "4",
                             "--evaluate_windows",
                             "6",
                             "--generate_bytes",
                             "11",
                             "--checkpoint_dir",
                             "c",
                             "--checkpoint_interval",
                             "10",
                             "--resume",
                             "--stop_after",
                             "13",
                             "--backend",
                             "INPROC",
                             "--ranks",
                             "14",
                             "--compute_threads",
                             "15",
                             "--records",
                             "r",
                             "--plot",
                             "p",
                             "--trace",
                             "t",
                             "--weights",
                             "PRIVATE",
                             "--accumulation",
                             "SHARDED",
                             "--sum_group",
                             "16",
                             "--host_sum",
                             "EXACT",
                             "--rounding_seed",
                             "17",
                             "--max_message_bytes",
                             "18000",
                             "--set",
                             "schedule.final_learning_rate_fraction=0.25",
                             "--set",
                             "optimizer.bucket_bytes=16"});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->data_path, "d");
  EXPECT_EQ(options->steps(), 200);
  EXPECT_EQ(options->micro_batches, 8);
  EXPECT_EQ(options->sequences, 3);
  EXPECT_EQ(options->learning_rate.peak, 0.5);
  EXPECT_EQ(options->learning_rate.warmup_steps, 7);
  EXPECT_EQ(options->learning_rate.final_fraction, 0.25);
  EXPECT_EQ(options->max_norm, 2.0);
  EXPECT_EQ(options->seed, 9);
  EXPECT_EQ(options->model.layers, 2);
  EXPECT_EQ(options->model.width, 12);
  EXPECT_EQ(options->model.heads, 3);
  EXPECT_EQ(options->model.context, 5);
  EXPECT_EQ(options->evaluate_interval_steps, 4);
  EXPECT_EQ(options->evaluate_windows, 6);
  EXPECT_EQ(options->generate_bytes, 11);
  EXPECT_EQ(options->checkpoint_directory, "c");
  EXPECT_EQ(options->checkpoint_interval_steps, 10);
  EXPECT_TRUE(options->resume);
  EXPECT_EQ(options->stop_after, 13);
  EXPECT_EQ(options->backend, TrainBackend::kInproc);
  EXPECT_EQ(options->ranks, 14);
  EXPECT_EQ(options->compute_threads, 15);
  EXPECT_EQ(options->records_path, "r");
  EXPECT_EQ(options->plot_prefix, "p");
  EXPECT_EQ(options->trace_path, "t");
  EXPECT_EQ(options->optimizer.weights, WeightCopies::kPrivate);
  EXPECT_EQ(options->optimizer.sum_group, 16);
  EXPECT_EQ(options->optimizer.rounding_seed, 17);
  EXPECT_EQ(options->optimizer.max_message_bytes, 18000);
  EXPECT_EQ(options->optimizer.bucket_bytes, 16);
}

TEST(TrainOptionsTest, UndecayedGroupFollowsTheOtherUnlessGiven) {
  auto options = Read({"--data=x", "--weight_decay=0.1", "--beta2=0.95", "--master=NONE", "--rounding=STOCHASTIC"});
  ASSERT_TRUE(options.ok()) << options.status();
  ASSERT_EQ(options->optimizer.groups.size(), 2);
  const GroupOptions& decayed = options->optimizer.groups[kDecayedGroup];
  const GroupOptions& undecayed = options->optimizer.groups[kUndecayedGroup];
  EXPECT_EQ(std::get<AdamWOptions>(decayed.rule), (AdamWOptions{.beta2 = 0.95, .weight_decay = 0.1}));
  EXPECT_EQ(std::get<AdamWOptions>(undecayed.rule), (AdamWOptions{.beta2 = 0.95, .weight_decay = 0}));
  EXPECT_EQ(undecayed.master, Master::kNone);
  EXPECT_EQ(undecayed.rounding, Rounding::kStochastic);

  options =
      Read({"--data=x", "--set=optimizer.group[0].adamw.beta1=0.8", "--set=optimizer.group[1].adamw.weight_decay=0.5"});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(std::get<AdamWOptions>(options->optimizer.groups[kUndecayedGroup].rule),
            (AdamWOptions{.weight_decay = 0.5}));
  options = Read({"--data=x"});
  ASSERT_TRUE(options.ok()) << options.status();
  ASSERT_EQ(options->optimizer.groups.size(), 2);
  EXPECT_EQ(std::get<AdamWOptions>(options->optimizer.groups[kUndecayedGroup].rule), (AdamWOptions{.weight_decay = 0}));
}

TEST(TrainOptionsTest, UndecayedGroupFollowsWithEveryRule) {
  auto options = Read({"--data=x", "--nesterov", "--momentum=0.9", "--weight_decay=1e-4", "--rule=sgd"});
  ASSERT_TRUE(options.ok()) << options.status();
  SgdOptions sgd{.momentum = 0.9, .nesterov = true, .weight_decay = 1e-4};
  EXPECT_EQ(std::get<SgdOptions>(options->optimizer.groups[kDecayedGroup].rule), sgd);
  sgd.weight_decay = 0;
  EXPECT_EQ(std::get<SgdOptions>(options->optimizer.groups[kUndecayedGroup].rule), sgd);

  options = Read({"--data=x", "--rule=lion", "--beta1=0.95", "--weight_decay=0.3"});
  ASSERT_TRUE(options.ok()) << options.status();
  LionOptions lion{.beta1 = 0.95, .weight_decay = 0.3};
  EXPECT_EQ(std::get<LionOptions>(options->optimizer.groups[kDecayedGroup].rule), lion);
  lion.weight_decay = 0;
  EXPECT_EQ(std::get<LionOptions>(options->optimizer.groups[kUndecayedGroup].rule), lion);
}

TEST(TrainOptionsTest, TcpNeedsAnAddressAndARank) {
  const auto refusal = [](std::vector<const char*> arguments) {
    arguments.insert(arguments.end(), {"--data=x", "--backend=TCP", "--ranks=2"});
    return std::string(Read(arguments).status().message());
  };
  EXPECT_THAT(refusal({"--rank=1"}), StartsWith("run.address"));
  EXPECT_THAT(refusal({"--rank=1", "--address="}), StartsWith("run.address"));
  EXPECT_THAT(refusal({"--address=h:1"}), StartsWith("run.rank"));
  EXPECT_THAT(refusal({"--address=h:1", "--rank=2"}), StartsWith("run.rank = 2: must be from 0 to 1"));
  EXPECT_THAT(refusal({"--address=h:1", "--rank=-1"}), StartsWith("run.rank = -1"));
  const auto options = Read({"--data=x", "--backend=TCP", "--ranks=2", "--rank=1", "--address=h:1"});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->backend, TrainBackend::kTcp);
  EXPECT_EQ(options->ranks, 2);
  EXPECT_EQ(options->rank, 1);
  EXPECT_EQ(options->address, "h:1");
}

TEST(CommandLineTest, UsageErrorsNameTheArgument) {
  EXPECT_THAT(UsageError({"--nonsense=1"}), StartsWith("unknown flag --nonsense"));
  EXPECT_THAT(UsageError({"--nonsense", "1"}), StartsWith("unknown flag --nonsense"));
  EXPECT_THAT(UsageError({"--nonsense"}), StartsWith("unknown flag --nonsense"));
  EXPECT_THAT(UsageError({"steps"}), StartsWith("unexpected argument \"steps\""));
  EXPECT_THAT(UsageError({"-steps=1"}), StartsWith("unexpected argument \"-steps=1\""));
  EXPECT_THAT(UsageError({"--"}), StartsWith("unexpected argument \"--\""));
  EXPECT_THAT(UsageError({"--=3"}), StartsWith("unknown flag --"));
  EXPECT_THAT(UsageError({"--steps"}), StartsWith("--steps needs a value"));
  EXPECT_THAT(UsageError({"--set"}), StartsWith("--set needs a value"));
  EXPECT_THAT(UsageError({"--set", "x"}), StartsWith("--set x: must be path=value"));
  EXPECT_THAT(UsageError({"--set", "=x"}), StartsWith("--set =x: must be path=value"));
  EXPECT_THAT(UsageError({"--options=a", "--options=b"}), StartsWith("--options"));
  EXPECT_THAT(UsageError({"--steps=1", "--steps=1"}), StartsWith("--steps: schedule.steps was already set"));
  EXPECT_THAT(UsageError({"--steps=1", "--set=schedule.steps=1"}), StartsWith("--set: schedule.steps"));
}

TEST(CommandLineTest, ABadValueNamesFlagAndField) {
  EXPECT_THAT(std::string(Read({"--data=x", "--steps=many"}).status().message()),
              StartsWith("--steps: schedule.steps = many: "));
  EXPECT_THAT(std::string(Read({"--data=x", "--set", "model.depth=1"}).status().message()),
              StartsWith("--set: model.depth = 1: "));
}

TEST(CommandLineTest, X2SettingsOfAnotherRuleAreRefused) {
  const auto refusal = [](std::vector<const char*> arguments) {
    arguments.push_back("--data=x");
    const auto options = Read(arguments);
    EXPECT_EQ(options.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(options.status().message());
  };
  EXPECT_THAT(refusal({"--momentum=0.9"}), StartsWith("--momentum: optimizer.group[0].adamw.momentum = 0.9: no field"));
  EXPECT_THAT(refusal({"--beta1=0.9", "--rule=sgd"}), StartsWith("--beta1: optimizer.group[0].sgd.beta1 = 0.9: no"));
  EXPECT_THAT(refusal({"--set=optimizer.group[0].adamw.beta1=0.9", "--rule=lion"}),
              StartsWith("--set: optimizer.group[0].adamw.beta1 = 0.9: \"adamw\" is not the rule, which is lion"));
  EXPECT_THAT(refusal({"--rule=adam"}), HasSubstr("must be one of adamw, sgd, lion"));
  EXPECT_THAT(refusal({"--rule=sgd", "--momentum=0.9", "--set=optimizer.group[0].sgd.momentum=0.8"}),
              StartsWith("--set: optimizer.group[0].sgd.momentum was already set by --momentum"));
}

TEST(CommandLineTest, AValueMayHoldEqualSignsAndASwitchAValue) {
  const auto options = Read({"--data=a=b", "--resume=false", "--set", "run.records=c=d"});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->data_path, "a=b");
  EXPECT_EQ(options->records_path, "c=d");
  EXPECT_FALSE(options->resume);
}

TEST(CommandLineTest, HelpListsEveryShorthand) {
  const auto command_line = ParseCommandLine(std::vector<const char*>{"--help"});
  ASSERT_TRUE(command_line.ok());
  EXPECT_TRUE(command_line->help);
  for (const char* text : {"--options", "--set", "--steps", "[schedule.steps]", "[run.records]", "75"}) {
    EXPECT_THAT(TrainHelp(), HasSubstr(text));
  }
}

}  // namespace
}  // namespace shardstep
