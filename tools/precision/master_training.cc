#include "shardstep/tools/precision/master_training.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "shardstep/tools/train/model_config.h"
#include "shardstep/tools/train/run_rank.h"
#include "shardstep/tools/train/train_listener.h"
#include "shardstep/tools/train/train_options.h"

namespace shardstep {
namespace {

constexpr int64_t kEvaluations = 20;
constexpr AdamWOptions kAdamW{.beta1 = 0.9, .beta2 = 0.98, .epsilon = 1e-8, .weight_decay = 0.1};
constexpr AdamWOptions kAdamWWithoutDecay{.beta1 = 0.9, .beta2 = 0.98, .epsilon = 1e-8, .weight_decay = 0};

struct Kept {
  const char* name;
  Master master;
  Rounding rounding;
};
constexpr Kept kKept[] = {{"FP32", Master::kFp32, Rounding::kNearest},
                          {"SPLIT", Master::kSplit, Rounding::kNearest},
                          {"NONE, nearest", Master::kNone, Rounding::kNearest},
                          {"NONE, stochastic", Master::kNone, Rounding::kStochastic}};

TrainOptions MakeOptions(const MasterTrainingOptions& options) {
  TrainOptions train;
  train.model = {.layers = options.layers,
                 .width = options.width,
                 .heads = options.width / kTrainingHeadWidth,
                 .context = kTrainingContext};
  train.learning_rate = {
      .peak = options.learning_rate, .warmup_steps = options.steps / 20, .steps = options.steps, .final_fraction = 0.1};
  train.micro_batches = 2;
  train.sequences = 8;
  train.max_norm = 1.0;
  train.seed = options.seed;
  train.evaluate_interval_steps = std::max<int64_t>(1, options.steps / kEvaluations);
  train.evaluate_windows = options.evaluate_windows;
  train.backend = TrainBackend::kInproc;
  train.ranks = 2;
  train.optimizer.rounding_seed = options.seed;
  return train;
}

std::string Describe(const TrainOptions& train) {
  return absl::StrFormat(
      "%d layers of width %d, context %d; %d steps of %d sequences; AdamW, betas %g and %g, weight\n"
      "decay %g of matrices, learning rate %g after %d steps of warm-up, down to %g by a cosine;\n"
      "gradient norm clipped to %g; seed %d",
      train.model.layers, train.model.width, train.model.context, train.steps(), train.micro_batches * train.sequences,
      kAdamW.beta1, kAdamW.beta2, kAdamW.weight_decay, train.learning_rate.peak, train.learning_rate.warmup_steps,
      train.learning_rate.peak * train.learning_rate.final_fraction, *train.max_norm, train.seed);
}

class HeldOutCurve : public TrainListener {
 public:
  absl::Status Step(const TrainedStep& /*step*/) override { return absl::OkStatus(); }
  absl::Status HeldOut(int64_t step, double bits_per_byte) override {
    curve.push_back({.step = step, .bits_per_byte = bits_per_byte});
    return absl::OkStatus();
  }

  std::vector<LossAtStep> curve;
};

/// Of all ranks: rather the reason than what others made of it.
absl::Status FirstFailure(const std::vector<Outcome>& outcomes) {
  absl::Status failure;
  for (const Outcome& outcome : outcomes) {
    if (failure.ok() || (absl::IsAborted(failure) && !outcome.status.ok())) failure = outcome.status;
  }
  return failure;
}

}  // namespace

absl::StatusOr<MasterTrainings> TrainWithMasters(const MasterTrainingOptions& options, const Corpus& corpus,
                                                 const std::function<void(absl::string_view line)>& tell) {
  TrainOptions train = MakeOptions(options);
  SHARDSTEP_RETURN_IF_ERROR(ValidateModelConfig(train.model));
  MasterTrainings result{.settings = Describe(train)};
  for (const ParameterSpec& parameter : ModelParameters(train.model)) {
    SHARDSTEP_ASSIGN_OR_RETURN(const int64_t elements, ElementCount(parameter));
    result.parameters += elements;
  }
  for (const Kept& kept : kKept) {
    tell(absl::StrCat("training with master ", kept.name));
    train.optimizer.groups = {{.rule = kAdamW, .master = kept.master, .rounding = kept.rounding},
                              {.rule = kAdamWWithoutDecay, .master = kept.master, .rounding = kept.rounding}};
    HeldOutCurve listener;
    SHARDSTEP_RETURN_IF_ERROR(FirstFailure(RunOnThreads(train, corpus, listener)));
    result.runs.push_back({.name = kept.name,
                           .master_bytes = MasterBytes(train.optimizer.groups[kDecayedGroup].kind(), DType::kBf16),
                           .held_out = std::move(listener.curve)});
  }
  return result;
}

}  // namespace shardstep
