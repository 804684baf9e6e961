#ifndef SHARDSTEP_TOOLS_TRAIN_TRAIN_REPORT_H_
#define SHARDSTEP_TOOLS_TRAIN_TRAIN_REPORT_H_

#include <chrono>
#include <cstdint>
#include <fstream>
#include <memory>
#include <ostream>

#include "shardstep/tools/train/progress.h"
#include "shardstep/tools/train/train_listener.h"
#include "shardstep/tools/train/train_options.h"
#include "shardstep/tools/train/training_plot.h"

namespace shardstep {

/// What shardstep_train shows and writes of a run: progress and the digest line on `out`, one line of JSON per step
/// (options.records_path), pictures (options.plot_prefix).
class TrainReport : public TrainListener {
 public:
  /// `options` and `out` outlive it. `terminal_columns` of the terminal behind `out`; 0: none.
  TrainReport(const TrainOptions& options, std::ostream& out, int terminal_columns);

  absl::Status Open() override;
  absl::Status Begin(int64_t after_step) override;
  absl::Status Step(const TrainedStep& step) override;
  absl::Status HeldOut(int64_t step, double bits_per_byte) override;
  void Tell(absl::string_view line) override;
  absl::Status End(int64_t step, const OptimizerDigests& digests) override;

 private:
  void Show(const TrainedStep& step);
  absl::Status Record(const TrainedStep& step);

  const TrainOptions& options_;
  std::ostream& out_;
  std::unique_ptr<ProgressLine> progress_;  // until the end
  std::ofstream records_;
  std::unique_ptr<TrainingPlot> plot_;  // nullptr: none is wanted
  int64_t after_step_ = 0;
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_TRAIN_TRAIN_REPORT_H_
