// The command line of shardstep_train: flags are shorthands for paths of proto/train.proto.
#include <algorithm>
#include <iterator>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "shardstep/proto/train.pb.h"
#include "shardstep/tools/options_file.h"
#include "shardstep/tools/train/train_options.h"

namespace shardstep {
namespace {

struct Shorthand {
  const char* flag;
  const char* path;
  const char* help;
  bool is_switch = false;  ///< alone it means true
};

constexpr Shorthand kShorthands[] = {
    {"data", "data.path", "the text to learn from; any file"},
    {"steps", "schedule.steps", "where the schedule ends"},
    {"micro_batches", "schedule.micro_batches", "micro-batches of one step, over all ranks"},
    {"sequences", "schedule.sequences", "sequences of one micro-batch"},
    {"learning_rate", "schedule.learning_rate", "the highest one"},
    {"warmup_steps", "schedule.warmup_steps", "steps of linear warm-up"},
    {"max_norm", "schedule.max_norm", "clip the gradient's global norm to this"},
    {"rule", "optimizer.group[0].rule", "of the update: adamw, sgd or lion"},
    {"beta1", "optimizer.group[0].rule.beta1", "of adamw or lion"},
    {"beta2", "optimizer.group[0].rule.beta2", "of adamw or lion"},
    {"momentum", "optimizer.group[0].rule.momentum", "of sgd; 0: none is kept"},
    {"nesterov", "optimizer.group[0].rule.nesterov", "of sgd", true},
    {"weight_decay", "optimizer.group[0].rule.weight_decay", "of matrices"},
    {"master", "optimizer.group[0].master", "what stands behind the weights: FP32, SPLIT or NONE"},
    {"rounding", "optimizer.group[0].rounding", "of weights without a master: NEAREST or STOCHASTIC"},
    {"rounding_seed", "optimizer.rounding_seed", "of stochastic rounding"},
    {"weights", "optimizer.weights", "once per host, SHARED, or per rank, PRIVATE"},
    {"accumulation", "optimizer.accumulation", "of micro-steps: SHARDED, or LOCAL, which gives other bits"},
    {"sum_group", "optimizer.sum_group", "micro-batches that are summed first"},
    {"host_sum", "optimizer.host_sum", "what a host sends: EXACT, or ROUNDED, which gives other bits"},
    {"max_message_bytes", "optimizer.max_message_bytes", "longer messages between hosts are cut"},
    {"seed", "schedule.seed", "of initial weights and of the order of the text"},
    {"layers", "model.layers", "blocks of the model"},
    {"width", "model.width", "a multiple of heads"},
    {"heads", "model.heads", "attention heads"},
    {"context", "model.context", "bytes that a prediction can see"},
    {"evaluate_interval", "evaluation.interval_steps", "steps between evaluations; 0: only at the end"},
    {"evaluate_windows", "evaluation.windows", "held-out windows of one evaluation"},
    {"generate_bytes", "evaluation.generate_bytes", "text to generate at the end"},
    {"checkpoint_dir", "checkpoint.directory", "where checkpoints go"},
    {"checkpoint_interval", "checkpoint.interval_steps", "steps between checkpoints; 0: only at the end"},
    {"resume", "checkpoint.resume", "start from the newest whole checkpoint, if any", true},
    {"stop_after", "run.stop_after", "save after this step of the schedule, and exit"},
    {"backend", "run.backend", "SHM: ranks are processes under mpirun; INPROC: threads; TCP: processes"},
    {"ranks", "run.ranks", "threads with INPROC, processes with TCP"},
    {"address", "run.address", "host:port of rank 0, with TCP"},
    {"rank", "run.rank", "which one this process is, with TCP"},
    {"device", "run.device", "cpu; this program's model is not for GPUs"},
    {"compute_threads", "run.compute_threads", "threads of one rank's forward and backward"},
    {"records", "run.records", "a file for one line of JSON per step"},
    {"plot", "run.plot", "draws the run to this and .loss.svg, .phases.svg, .png; needs gnuplot"},
    {"trace", "run.trace", "a file for a timeline of every operation, to look at with Perfetto"},
    {"poison_step", "run.poison_step", "write a NaN into a gradient of this step, to watch it being skipped"},
};

/// One flag of the command line, taken apart.
struct Flag {
  std::string name;   // without dashes
  std::string value;  // "true" for a switch alone
};

absl::StatusOr<const Shorthand*> FindShorthand(absl::string_view name) {
  const auto* found = std::find_if(std::begin(kShorthands), std::end(kShorthands),
                                   [&](const Shorthand& shorthand) { return shorthand.flag == name; });
  if (found != std::end(kShorthands)) return found;
  return absl::InvalidArgumentError(absl::StrCat("unknown flag --", name, "; --help lists all"));
}

bool IsSwitch(absl::string_view name) {
  const auto shorthand = FindShorthand(name);
  return name == "help" || (shorthand.ok() && (*shorthand)->is_switch);
}

/// Takes one flag, and its value if that is an argument of its own, from `arguments`.
absl::StatusOr<Flag> TakeFlag(absl::Span<const char* const>* arguments) {
  const absl::string_view argument = arguments->front();
  arguments->remove_prefix(1);
  if (!absl::StartsWith(argument, "--") || argument.size() == 2) {
    return absl::InvalidArgumentError(absl::StrCat("unexpected argument \"", argument, "\"; --help lists all flags"));
  }
  const absl::string_view text = argument.substr(2);
  if (const size_t equals = text.find('='); equals != absl::string_view::npos) {
    return Flag{std::string(text.substr(0, equals)), std::string(text.substr(equals + 1))};
  }
  if (IsSwitch(text)) return Flag{std::string(text), "true"};
  if (text != "set" && text != "options") SHARDSTEP_RETURN_IF_ERROR(FindShorthand(text).status());
  if (arguments->empty()) return absl::InvalidArgumentError(absl::StrCat(argument, " needs a value"));
  const char* value = arguments->front();
  arguments->remove_prefix(1);
  return Flag{std::string(text), value};
}

absl::Status SetTwice(absl::string_view flag, absl::string_view path, absl::string_view earlier_flag) {
  return absl::InvalidArgumentError(absl::StrCat(flag, ": ", path, " was already set by ", earlier_flag));
}

absl::StatusOr<Override> MakeOverride(const Flag& flag) {
  if (flag.name != "set") {
    SHARDSTEP_ASSIGN_OR_RETURN(const Shorthand* shorthand, FindShorthand(flag.name));
    return Override{absl::StrCat("--", flag.name), shorthand->path, flag.value};
  }
  const size_t equals = flag.value.find('=');
  if (equals == std::string::npos || equals == 0) {
    return absl::InvalidArgumentError(absl::StrCat("--set ", flag.value, ": must be path=value"));
  }
  return Override{"--set", flag.value.substr(0, equals), flag.value.substr(equals + 1)};
}

/// Whatever their order, the choice of a rule comes before its settings.
absl::Status ApplyOverrides(std::vector<Override> overrides, proto::Train* message) {
  std::stable_partition(overrides.begin(), overrides.end(),
                        [](const Override& override) { return absl::EndsWith(override.path, ".rule"); });
  std::map<std::string, std::string> flag_by_path;
  for (const Override& override : overrides) {
    const std::string path = ResolveOneofs(override.path, *message);
    const auto [earlier, is_new] = flag_by_path.emplace(path, override.flag);
    if (!is_new) return SetTwice(override.flag, path, earlier->second);
    SHARDSTEP_RETURN_IF_ERROR(Annotate(SetOption(path, override.value, message), override.flag));
  }
  return absl::OkStatus();
}

absl::Status AddOverride(const Flag& flag, CommandLine* result) {
  SHARDSTEP_ASSIGN_OR_RETURN(const Override added, MakeOverride(flag));
  for (const Override& earlier : result->overrides) {
    if (earlier.path == added.path) return SetTwice(added.flag, added.path, earlier.flag);
  }
  result->overrides.push_back(added);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CommandLine> ParseCommandLine(absl::Span<const char* const> arguments) {
  CommandLine result;
  while (!arguments.empty()) {
    SHARDSTEP_ASSIGN_OR_RETURN(const Flag flag, TakeFlag(&arguments));
    if (flag.name == "help") {
      result.help = true;
    } else if (flag.name == "options") {
      if (result.options_file.has_value()) return absl::InvalidArgumentError("--options was given twice");
      result.options_file = flag.value;
    } else {
      SHARDSTEP_RETURN_IF_ERROR(AddOverride(flag, &result));
    }
  }
  return result;
}

absl::StatusOr<TrainOptions> ReadTrainOptions(const CommandLine& command_line) {
  proto::Train message;
  if (command_line.options_file.has_value()) {
    SHARDSTEP_RETURN_IF_ERROR(ReadOptionsFile(*command_line.options_file, &message));
  }
  SHARDSTEP_RETURN_IF_ERROR(ApplyOverrides(command_line.overrides, &message));
  return TrainOptionsFromProto(message);
}

std::string TrainHelp() {
  std::string text =
      "shardstep_train: trains a byte-level GPT on a file, on as many ranks as mpirun starts.\n\n"
      "  --options FILE            options in protobuf text format, message Train of proto/train.proto\n"
      "  --set PATH=VALUE          overrides one field, e.g. --set optimizer.group[0].adamw.beta2=0.95\n"
      "  --help                    this text\n\n"
      "Shorthands, each for the path in brackets; flags override the file. Parameter group 0 is the matrices; group "
      "1,\n"
      "biases, norms and embeddings, is group 0 without weight decay unless the options have a group[1].\n";
  for (const Shorthand& shorthand : kShorthands) {
    absl::StrAppendFormat(&text, "  --%-24s%s [%s]\n", shorthand.flag, shorthand.help, shorthand.path);
  }
  absl::StrAppend(&text,
                  "\nExit codes: 0 done, 64 command line, 65 bad data, 70 internal error, 74 input or output,\n"
                  "75 a rank was lost or late (try again), 78 bad options.\n");
  return text;
}

}  // namespace shardstep
