#ifndef SHARDSTEP_TOOLS_PRECISION_MASTER_TRAINING_H_
#define SHARDSTEP_TOOLS_PRECISION_MASTER_TRAINING_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "shardstep/comm/status.h"
#include "shardstep/tools/train/corpus.h"

namespace shardstep {

/// A byte-level GPT and how it is trained; all that is not here is in TrainWithMasters, and the same for every run.
struct MasterTrainingOptions {
  int64_t steps = 1500;
  int64_t layers = 2;
  int64_t width = 96;  ///< a multiple of kTrainingHeadWidth
  double learning_rate = 1e-3;
  int64_t evaluate_windows = 256;  ///< held-out windows of one evaluation, of which there are some twenty
  uint64_t seed = 1;
};
inline constexpr int64_t kTrainingHeadWidth = 32;
/// The context that the corpus must be opened for.
inline constexpr int64_t kTrainingContext = 64;

struct LossAtStep {
  int64_t step = 0;
  double bits_per_byte = 0;
};

/// One training run, with one thing behind its bf16 weights.
struct MasterTraining {
  std::string name;                  ///< "FP32", "SPLIT", "NONE, nearest", "NONE, stochastic"
  int64_t master_bytes = 0;          ///< per parameter, besides the weights
  std::vector<LossAtStep> held_out;  ///< some twenty on the way, and the last step

  double last_bits_per_byte() const { return held_out.back().bits_per_byte; }
};

/// What all runs have in common.
struct MasterTrainings {
  int64_t parameters = 0;
  std::string settings;              ///< in words
  std::vector<MasterTraining> runs;  ///< FP32, SPLIT, NONE nearest, NONE stochastic
};

/// The same run four times, with another master each: the same initial weights (rounded to bf16, without a master),
/// data in the same order, and hyperparameters. On two ranks that are threads. `tell` hears what is being done. Errors
/// are those of Trainer.
absl::StatusOr<MasterTrainings> TrainWithMasters(const MasterTrainingOptions& options, const Corpus& corpus,
                                                 const std::function<void(absl::string_view line)>& tell);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_PRECISION_MASTER_TRAINING_H_
