#include "shardstep/tools/precision/precision_options.h"

#include <algorithm>
#include <iterator>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "shardstep/tools/precision/many_updates.h"

namespace shardstep {
namespace {

// What a flag sets: a field of PrecisionOptions, or of its `training`.
template <auto member>
auto& Field(PrecisionOptions& options) {
  return options.*member;
}
template <auto member>
auto& TrainingField(PrecisionOptions& options) {
  return options.training.*member;
}

struct CountFlag {
  const char* name;
  int64_t& (*field)(PrecisionOptions&);
  int64_t smallest;
  int64_t largest;
  const char* help;
};

constexpr CountFlag kCountFlags[] = {
    {"steps", Field<&PrecisionOptions::steps>, 1, kMaxUpdateSteps, "updates of one weight"},
    {"stochastic_weights", Field<&PrecisionOptions::stochastic_weights>, 1, 1 << 16, "weights rounded at random"},
    {"elements", Field<&PrecisionOptions::elements>, 2, 1 << 20, "elements of the sums; at least max_ranks"},
    {"max_count", Field<&PrecisionOptions::max_count>, 2, 1 << 20, "sums of 2, 4, ... up to this many micro-gradients"},
    {"max_ranks", Field<&PrecisionOptions::max_ranks>, 2, 1 << 16, "sums over 2, 4, ... up to this many ranks"},
    {"seed", Field<&PrecisionOptions::seed>, 0, std::numeric_limits<int64_t>::max(), "of everything random"},
    {"train_steps", TrainingField<&MasterTrainingOptions::steps>, 1, 1'000'000, "steps of each training run"},
    {"train_layers", TrainingField<&MasterTrainingOptions::layers>, 1, 64, "of the model that is trained"},
    {"train_width", TrainingField<&MasterTrainingOptions::width>, kTrainingHeadWidth, 4096,
     "of the model; a multiple of 32"},
};

struct PathFlag {
  const char* name;
  std::string& (*field)(PrecisionOptions&);
  const char* help;
};

constexpr PathFlag kPathFlags[] = {
    {"data", Field<&PrecisionOptions::data_file>, "a text to train a small GPT on, four times; minutes, not seconds"},
    {"json", Field<&PrecisionOptions::json_file>, "a file for all results as one JSON object"},
    {"gnuplot", Field<&PrecisionOptions::gnuplot_directory>, "a folder for data files and plots.gp, which draws them"},
};

constexpr char kLearningRateFlag[] = "train_learning_rate";
constexpr double kLargestLearningRate = 1000;

absl::Status SetLearningRate(absl::string_view text, PrecisionOptions* options) {
  double value = 0;
  if (!absl::SimpleAtod(text, &value) || !(value > 0 && value <= kLargestLearningRate)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", kLearningRateFlag, "=", text, ": must be positive and at most ", kLargestLearningRate));
  }
  options->training.learning_rate = value;
  return absl::OkStatus();
}

absl::Status SetCount(const CountFlag& flag, absl::string_view text, PrecisionOptions* options) {
  int64_t value = 0;
  if (!absl::SimpleAtoi(text, &value) || value < flag.smallest || value > flag.largest) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", flag.name, "=", text, ": must be an integer from ", flag.smallest, " to ", flag.largest));
  }
  flag.field(*options) = value;
  return absl::OkStatus();
}

absl::Status SetFlag(absl::string_view name, absl::string_view value, PrecisionOptions* options) {
  const auto is_named = [&](const auto& flag) { return flag.name == name; };
  const auto* count = std::find_if(std::begin(kCountFlags), std::end(kCountFlags), is_named);
  if (count != std::end(kCountFlags)) return SetCount(*count, value, options);
  if (name == kLearningRateFlag) return SetLearningRate(value, options);
  const auto* path = std::find_if(std::begin(kPathFlags), std::end(kPathFlags), is_named);
  if (path == std::end(kPathFlags)) {
    return absl::InvalidArgumentError(absl::StrCat("unknown flag --", name, "; --help lists all"));
  }
  if (value.empty()) return absl::InvalidArgumentError(absl::StrCat("--", name, " needs a path"));
  path->field(*options) = std::string(value);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PrecisionOptions> ParsePrecisionOptions(absl::Span<const char* const> arguments) {
  PrecisionOptions options;
  for (size_t i = 0; i < arguments.size(); ++i) {
    absl::string_view text = arguments[i];
    if (!absl::StartsWith(text, "--") || text.size() == 2) {
      return absl::InvalidArgumentError(absl::StrCat("unexpected argument \"", text, "\"; --help lists all flags"));
    }
    text.remove_prefix(2);
    if (text == "help") {
      options.help = true;
      continue;
    }
    const size_t equals = text.find('=');
    absl::string_view value;
    if (equals != absl::string_view::npos) {
      value = text.substr(equals + 1);
      text = text.substr(0, equals);
    } else if (i + 1 < arguments.size()) {
      value = arguments[++i];
    }
    SHARDSTEP_RETURN_IF_ERROR(SetFlag(text, value, &options));
  }
  if (options.elements < options.max_ranks) {
    return absl::InvalidArgumentError(absl::StrCat("--elements=", options.elements, ": must be at least max_ranks, ",
                                                   options.max_ranks, ", so that every rank owns some"));
  }
  if (options.training.width % kTrainingHeadWidth != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--train_width=", options.training.width, ": must be a multiple of ", kTrainingHeadWidth));
  }
  options.training.seed = static_cast<uint64_t>(options.seed);
  return options;
}

std::string PrecisionHelp() {
  std::string text = "shardstep_precision: what rounding does to weights and sums of gradients, measured.\n\n";
  PrecisionOptions defaults;
  for (const CountFlag& flag : kCountFlags) {
    absl::StrAppendFormat(&text, "  --%-24s%s (%d)\n", absl::StrCat(flag.name, "=N"), flag.help, flag.field(defaults));
  }
  absl::StrAppendFormat(&text, "  --%-24s%s (%g)\n", absl::StrCat(kLearningRateFlag, "=X"), "the highest one",
                        defaults.training.learning_rate);
  for (const PathFlag& flag : kPathFlags) {
    absl::StrAppendFormat(&text, "  --%-24s%s\n", absl::StrCat(flag.name, "=PATH"), flag.help);
  }
  absl::StrAppend(&text, "\nExit codes: 0 done, 64 command line, 65 bad data, 74 input or output.\n");
  return text;
}

}  // namespace shardstep
