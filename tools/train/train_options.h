#ifndef SHARDSTEP_TOOLS_TRAIN_TRAIN_OPTIONS_H_
#define SHARDSTEP_TOOLS_TRAIN_TRAIN_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/comm/status.h"
#include "shardstep/runtime/options.h"
#include "shardstep/tools/train/learning_rate.h"
#include "shardstep/tools/train/model_config.h"

namespace shardstep {

namespace proto {
class Train;
}  // namespace proto

enum class TrainBackend { kShm, kInproc, kTcp };

/// proto/train.proto's Train, validated. Field by field as there.
struct TrainOptions {
  OptimizerOptions optimizer;  ///< two groups: kDecayedGroup, kUndecayedGroup; micro_steps is the caller's to set
  ModelConfig model;
  std::string data_path;

  LearningRateSchedule learning_rate;  ///< with the schedule's number of steps
  int64_t micro_batches = 4;           ///< J of a step, over all ranks
  int64_t sequences = 8;               ///< of one micro-batch
  std::optional<double> max_norm;
  uint64_t seed = 1;

  int64_t evaluate_interval_steps = 0;  ///< 0: only after the last step
  int64_t evaluate_windows = 64;
  int64_t generate_bytes = 0;

  std::optional<std::string> checkpoint_directory;
  int64_t checkpoint_interval_steps = 0;  ///< 0: only after the last step
  bool resume = false;
  std::optional<int64_t> stop_after;

  TrainBackend backend = TrainBackend::kShm;
  int ranks = 1;        ///< of kInproc and kTcp
  int rank = 0;         ///< of kTcp
  std::string address;  ///< of kTcp: "host:port"
  int compute_threads = 1;
  std::optional<std::string> records_path;
  std::optional<std::string> plot_prefix;
  std::optional<std::string> trace_path;
  std::optional<int64_t> poison_step;

  int64_t steps() const { return learning_rate.steps; }
};

/// InvalidArgument names the first bad field by its path ("schedule.learning_rate = nan: ...").
absl::StatusOr<TrainOptions> TrainOptionsFromProto(const proto::Train& message);

/// One field of the message, set on the command line.
struct Override {
  std::string flag;  ///< "--steps", or "--set"
  std::string path;
  std::string value;
};

struct CommandLine {
  bool help = false;
  std::optional<std::string> options_file;
  std::vector<Override> overrides;
};

/// `arguments` without the program's name. Flags are --name=value or --name value, each a shorthand for one path of the
/// message. InvalidArgument, meant for exit code 64, names the argument: unknown, without a value, given twice.
absl::StatusOr<CommandLine> ParseCommandLine(absl::Span<const char* const> arguments);

/// The options file, then the overrides in their order, validated. InvalidArgument is meant for exit code 78.
absl::StatusOr<TrainOptions> ReadTrainOptions(const CommandLine& command_line);

/// What --help prints.
std::string TrainHelp();

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_TRAIN_TRAIN_OPTIONS_H_
