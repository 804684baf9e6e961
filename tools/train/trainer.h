#ifndef SHARDSTEP_TOOLS_TRAIN_TRAINER_H_
#define SHARDSTEP_TOOLS_TRAIN_TRAINER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "shardstep/comm/levels.h"
#include "shardstep/comm/rendezvous.h"
#include "shardstep/comm/status.h"
#include "shardstep/runtime/sharded_optimizer.h"
#include "shardstep/tools/trace/trace_recording.h"
#include "shardstep/tools/train/corpus.h"
#include "shardstep/tools/train/model.h"
#include "shardstep/tools/train/train_listener.h"
#include "shardstep/tools/train/train_options.h"

namespace shardstep {

/// One rank of a training run: the model computes gradients, the sharded optimizer does the rest. Every rank makes one
/// and runs it on one thread; rank 0 alone has a listener.
class Trainer {
 public:
  /// Collective. Makes the model and the optimizer, and fills the weights: from the newest whole checkpoint when
  /// options.resume is set and there is one, else initial ones. `options`, `corpus`, `rendezvous` and `listener`
  /// outlive the trainer. `listener`: of rank 0, nullptr on the others.
  static absl::StatusOr<std::unique_ptr<Trainer>> Create(const TrainOptions& options, const Corpus& corpus,
                                                         Rendezvous& rendezvous, CommunicatorLevels communicators,
                                                         TrainListener* listener);

  /// Collective. Trains to the end of the schedule or to options.stop_after, evaluates, saves, generates text, and
  /// tells the digests.
  absl::Status Run();

  /// Ends the job of all ranks.
  void Abort(const absl::Status& reason) { optimizer_->Abort(reason); }

 private:
  /// A step between Step and FinishStep: what this rank knows of it.
  struct StepInFlight {
    std::vector<double> losses;  // of this rank's micro-batches, in order
    int64_t forward_ns = 0;
    int64_t backward_ns = 0;
    int64_t duration_ns = 0;  // from its first micro-step to the call of Step
  };

  Trainer(const TrainOptions& options, const Corpus& corpus, Rendezvous& rendezvous, TrainListener* listener);
  absl::Status Start(CommunicatorLevels communicators);
  absl::Status OpenListenerAndModel();
  void TellWhatIsTrained();
  /// What must be the same on every rank besides the optimizer's configuration, one line per field.
  std::vector<std::string> DescribeRun() const;
  absl::Status LoadOrInitialize();
  void WarnOfOtherSettings(const std::string& saved);
  /// What must be equal for a resumed run to continue as if it had not stopped, one line per field.
  std::string CallerState() const;

  int64_t micro_steps() const {
    return (options_.micro_batches + rendezvous_.world_size() - 1) / rendezvous_.world_size();
  }
  absl::Status TrainStep(int64_t step);
  absl::Status MicroStep(int64_t step, int64_t micro_step, StepInFlight* in_flight);
  ParameterHooks<Bf16> Hooks(int64_t step, int64_t micro_batch, int64_t* backward_begin_ns);
  absl::Status FinishStep();
  /// Collective. The sum of `count` numbers that ranks took turns at, in their order: the same bits at every number of
  /// ranks. `mine` are those of this rank.
  absl::StatusOr<double> SumInOrder(absl::string_view what, const std::vector<double>& mine, int64_t count,
                                    absl::Duration deadline);
  absl::Status TellStep(const StepRecord& record, const StepInFlight& step, double loss);
  absl::Status Evaluate();
  absl::Status Save();
  absl::Status WriteTimeline();
  absl::Status GenerateText();
  void Tell(const std::string& line);

  const TrainOptions& options_;
  const Corpus& corpus_;
  Rendezvous& rendezvous_;
  TrainListener* const listener_;  // nullptr: not rank 0
  std::unique_ptr<Model<Bf16>> model_;
  std::unique_ptr<TraceRecording> recording_;  // nullptr: no timeline is wanted
  std::unique_ptr<ShardedOptimizer> optimizer_;
  std::vector<uint8_t> windows_;  // of one micro-batch
  std::optional<StepInFlight> in_flight_;
  int64_t first_step_ = 0;  // the step that this run started after
};

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_TRAIN_TRAINER_H_
