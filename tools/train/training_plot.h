#ifndef SHARDSTEP_TOOLS_TRAIN_TRAINING_PLOT_H_
#define SHARDSTEP_TOOLS_TRAIN_TRAINING_PLOT_H_

#include <cstdint>
#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "shardstep/comm/status.h"
#include "shardstep/tools/train/train_listener.h"

namespace shardstep {

/// Pictures of a training run: <prefix>.loss.svg, loss over steps, and <prefix>.phases.svg, where a step's time goes;
/// both as .png too. They are drawn from <prefix>.steps.dat and <prefix>.held_out.dat, which grow with the run, by
/// <prefix>.gp. Errors name the file. One thread.
class TrainingPlot {
 public:
  /// FailedPrecondition when there is no gnuplot.
  static absl::StatusOr<std::unique_ptr<TrainingPlot>> Create(const std::string& prefix);

  /// What an earlier run wrote of steps up to `after_step`, which this one goes on from, stays, and nothing else.
  absl::Status Begin(int64_t after_step);
  absl::Status AddStep(const TrainedStep& step);
  absl::Status AddHeldOut(int64_t step, double bits_per_byte);
  /// Nothing when there is no step to show.
  absl::Status Draw();

 private:
  explicit TrainingPlot(std::string prefix) : prefix_(std::move(prefix)) {}
  // Lines of a number of a step and what belongs to it.
  struct DataFile {
    std::string path;
    std::ofstream stream;
    absl::Status Begin(absl::string_view header, int64_t after_step, bool* has_lines);
    absl::Status Add(absl::string_view line);
  };

  const std::string prefix_;
  DataFile steps_{prefix_ + ".steps.dat"};
  DataFile held_out_{prefix_ + ".held_out.dat"};
  bool has_steps_ = false;
  bool has_held_out_ = false;
};

/// The gnuplot script that draws the files of that prefix's last part.
std::string TrainingPlotScript(absl::string_view name, bool has_held_out);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_TRAIN_TRAINING_PLOT_H_
