#include "shardstep/tools/train/train_options.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "shardstep/optimizer/shard_kernels.h"
#include "shardstep/proto/train.pb.h"

namespace shardstep {
namespace {

constexpr int64_t kMaxSteps = int64_t{1} << 40;
constexpr int64_t kMaxSequences = 1 << 16;
constexpr int64_t kMaxWindows = 1 << 20;
constexpr int64_t kMaxGeneratedBytes = 1 << 20;
constexpr int64_t kMaxRanks = 256;
constexpr int64_t kMaxThreads = 1024;

absl::Status Refuse(absl::string_view field, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", why));
}

absl::Status RequireRange(absl::string_view field, int64_t value, int64_t smallest, int64_t largest) {
  if (value >= smallest && value <= largest) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " = ", value, ": must be from ", smallest, " to ", largest));
}

absl::Status RequirePositive(absl::string_view field, double value) {
  if (value > 0 && value <= std::numeric_limits<float>::max()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " = ", value, ": must be positive and finite in fp32"));
}

void ClearWeightDecay(proto::Group* group) {
  switch (group->rule_case()) {
    case proto::Group::kSgd:
      return group->mutable_sgd()->set_weight_decay(0);
    case proto::Group::kLion:
      return group->mutable_lion()->set_weight_decay(0);
    case proto::Group::kAdamw:
    case proto::Group::RULE_NOT_SET:
      return group->mutable_adamw()->set_weight_decay(0);
  }
}

/// Either group may be left out.
proto::Optimizer WithBothGroups(const proto::Optimizer& message) {
  proto::Optimizer result = message;
  if (result.group_size() == 0) result.add_group();
  if (result.group_size() == 1) {
    *result.add_group() = result.group(kDecayedGroup);
    ClearWeightDecay(result.mutable_group(kUndecayedGroup));
  }
  return result;
}

absl::Status ReadOptimizer(const proto::Optimizer& message, TrainOptions* options) {
  if (message.has_micro_steps()) {
    return Refuse("optimizer.micro_steps",
                  "set schedule.micro_batches instead; micro-steps follow from it and the number of ranks");
  }
  if (message.accumulate_gradients()) {
    return Refuse("optimizer.accumulate_gradients", "this program's backward overwrites its gradients");
  }
  if (message.group_size() > 2) {
    return Refuse("optimizer.group[2]", "there are two groups: matrices; biases, norms and embeddings");
  }
  auto optimizer = OptionsFromProto(WithBothGroups(message));
  if (!optimizer.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("optimizer.", optimizer.status().message()));
  }
  options->optimizer = *std::move(optimizer);
  return absl::OkStatus();
}

absl::Status ReadModel(const proto::Model& message, TrainOptions* options) {
  options->model = {
      .layers = message.layers(), .width = message.width(), .heads = message.heads(), .context = message.context()};
  const absl::Status status = ValidateModelConfig(options->model);
  if (status.ok()) return status;
  return absl::InvalidArgumentError(absl::StrCat("model.", status.message()));
}

absl::Status ReadSchedule(const proto::Schedule& message, TrainOptions* options) {
  SHARDSTEP_RETURN_IF_ERROR(RequireRange("schedule.steps", message.steps(), 1, kMaxSteps));
  SHARDSTEP_RETURN_IF_ERROR(RequireRange("schedule.micro_batches", message.micro_batches(), 1, kMaxMicroBatches));
  SHARDSTEP_RETURN_IF_ERROR(RequireRange("schedule.sequences", message.sequences(), 1, kMaxSequences));
  SHARDSTEP_RETURN_IF_ERROR(RequirePositive("schedule.learning_rate", message.learning_rate()));
  SHARDSTEP_RETURN_IF_ERROR(RequireRange("schedule.warmup_steps", message.warmup_steps(), 0, message.steps()));
  const double fraction = message.final_learning_rate_fraction();
  if (!(fraction >= 0 && fraction <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("schedule.final_learning_rate_fraction = ", fraction, ": must be in [0, 1]"));
  }
  options->learning_rate = {.peak = message.learning_rate(),
                            .warmup_steps = message.warmup_steps(),
                            .steps = message.steps(),
                            .final_fraction = fraction};
  options->micro_batches = message.micro_batches();
  options->sequences = message.sequences();
  options->seed = message.seed();
  if (!message.has_max_norm()) return absl::OkStatus();
  SHARDSTEP_RETURN_IF_ERROR(RequirePositive("schedule.max_norm", message.max_norm()));
  options->max_norm = message.max_norm();
  return absl::OkStatus();
}

absl::Status ReadEvaluation(const proto::Evaluation& message, TrainOptions* options) {
  SHARDSTEP_RETURN_IF_ERROR(RequireRange("evaluation.interval_steps", message.interval_steps(), 0, kMaxSteps));
  SHARDSTEP_RETURN_IF_ERROR(RequireRange("evaluation.windows", message.windows(), 1, kMaxWindows));
  SHARDSTEP_RETURN_IF_ERROR(RequireRange("evaluation.generate_bytes", message.generate_bytes(), 0, kMaxGeneratedBytes));
  options->evaluate_interval_steps = message.interval_steps();
  options->evaluate_windows = message.windows();
  options->generate_bytes = message.generate_bytes();
  return absl::OkStatus();
}

absl::Status ReadCheckpoint(const proto::Checkpoints& message, TrainOptions* options) {
  SHARDSTEP_RETURN_IF_ERROR(RequireRange("checkpoint.interval_steps", message.interval_steps(), 0, kMaxSteps));
  options->checkpoint_interval_steps = message.interval_steps();
  options->resume = message.resume();
  if (message.has_directory()) {
    if (message.directory().empty()) return Refuse("checkpoint.directory", "must not be empty");
    options->checkpoint_directory = message.directory();
    return absl::OkStatus();
  }
  if (message.interval_steps() != 0) return Refuse("checkpoint.interval_steps", "needs checkpoint.directory");
  if (message.resume()) return Refuse("checkpoint.resume", "needs checkpoint.directory");
  return absl::OkStatus();
}

absl::StatusOr<TrainBackend> ReadBackend(proto::Backend backend) {
  switch (backend) {
    case proto::SHM:
      return TrainBackend::kShm;
    case proto::INPROC:
      return TrainBackend::kInproc;
    case proto::TCP:
      return TrainBackend::kTcp;
    case proto::BACKEND_UNSPECIFIED:
      break;
  }
  return Refuse(absl::StrCat("run.backend = ", proto::Backend_Name(backend)), "must be SHM, INPROC or TCP");
}

/// How ranks find each other.
absl::Status ReadRanks(const proto::Run& message, TrainOptions* options) {
  SHARDSTEP_ASSIGN_OR_RETURN(options->backend, ReadBackend(message.backend()));
  SHARDSTEP_RETURN_IF_ERROR(RequireRange("run.ranks", message.ranks(), 1, kMaxRanks));
  if (message.has_ranks() && options->backend == TrainBackend::kShm) {
    return Refuse("run.ranks", "is for run.backend INPROC and TCP; with SHM mpirun gives the number of ranks");
  }
  options->ranks = message.ranks();
  if (options->backend != TrainBackend::kTcp) {
    if (message.has_rank()) return Refuse("run.rank", "is for run.backend TCP");
    if (message.has_address()) return Refuse("run.address", "is for run.backend TCP");
    return absl::OkStatus();
  }
  if (!message.has_rank()) return Refuse("run.rank", "run.backend TCP needs it");
  SHARDSTEP_RETURN_IF_ERROR(RequireRange("run.rank", message.rank(), 0, message.ranks() - 1));
  options->rank = message.rank();
  if (message.address().empty()) return Refuse("run.address", "run.backend TCP needs host:port, where rank 0 listens");
  options->address = message.address();
  return absl::OkStatus();
}

absl::Status CheckDevice(const std::string& device) {
  if (device == "cpu") return absl::OkStatus();
  return Refuse(absl::StrCat("run.device = ", device),
                device == "cuda" ? "the model of this program has no GPU code; the optimizer has: shardstep_bench "
                                   "--device=cuda measures it"
                                 : "must be cpu");
}

absl::Status ReadRun(const proto::Run& message, TrainOptions* options) {
  SHARDSTEP_RETURN_IF_ERROR(CheckDevice(message.device()));
  SHARDSTEP_RETURN_IF_ERROR(ReadRanks(message, options));
  SHARDSTEP_RETURN_IF_ERROR(RequireRange("run.compute_threads", message.compute_threads(), 1, kMaxThreads));
  options->compute_threads = message.compute_threads();
  if (message.has_stop_after()) {
    SHARDSTEP_RETURN_IF_ERROR(RequireRange("run.stop_after", message.stop_after(), 1, kMaxSteps));
    options->stop_after = message.stop_after();
  }
  if (message.has_poison_step()) {
    SHARDSTEP_RETURN_IF_ERROR(RequireRange("run.poison_step", message.poison_step(), 1, kMaxSteps));
    options->poison_step = message.poison_step();
  }
  if (message.has_records()) {
    if (message.records().empty()) return Refuse("run.records", "must not be empty");
    options->records_path = message.records();
  }
  if (message.has_trace()) {
    if (message.trace().empty()) return Refuse("run.trace", "must not be empty");
    options->trace_path = message.trace();
  }
  if (message.has_plot()) {
    const bool names_a_file = !message.plot().empty() && message.plot().back() != '/';
    if (!names_a_file) return Refuse("run.plot", "must be the beginning of file names, not empty or a folder");
    options->plot_prefix = message.plot();
  }
  return absl::OkStatus();
}

absl::Status RefuseContradictions(const TrainOptions& options) {
  if (options.max_norm.has_value() && options.optimizer.non_finite == NonFinitePolicy::kIgnore) {
    return Refuse("schedule.max_norm", "clipping needs a norm, and optimizer.non_finite = IGNORE takes none");
  }
  if (options.stop_after.has_value() && !options.checkpoint_directory.has_value()) {
    return Refuse("run.stop_after", "needs checkpoint.directory to save to");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TrainOptions> TrainOptionsFromProto(const proto::Train& message) {
  TrainOptions options;
  SHARDSTEP_RETURN_IF_ERROR(ReadOptimizer(message.optimizer(), &options));
  SHARDSTEP_RETURN_IF_ERROR(ReadModel(message.model(), &options));
  if (message.data().path().empty()) return Refuse("data.path", "must name a file");
  options.data_path = message.data().path();
  SHARDSTEP_RETURN_IF_ERROR(ReadSchedule(message.schedule(), &options));
  SHARDSTEP_RETURN_IF_ERROR(ReadEvaluation(message.evaluation(), &options));
  SHARDSTEP_RETURN_IF_ERROR(ReadCheckpoint(message.checkpoint(), &options));
  SHARDSTEP_RETURN_IF_ERROR(ReadRun(message.run(), &options));
  SHARDSTEP_RETURN_IF_ERROR(RefuseContradictions(options));
  return options;
}

}  // namespace shardstep
