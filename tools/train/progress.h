#ifndef SHARDSTEP_TOOLS_TRAIN_PROGRESS_H_
#define SHARDSTEP_TOOLS_TRAIN_PROGRESS_H_

#include <cstdint>
#include <optional>
#include <ostream>
#include <string>

#include "absl/strings/string_view.h"

namespace shardstep {

/// What is shown of one step.
struct StepProgress {
  int64_t step = 0;   ///< of the schedule, from 1
  int64_t steps = 0;  ///< the last one
  double bits_per_byte = 0;
  std::optional<double> gradient_norm;
  double clip_factor = 1;
  bool applied = true;
  double tokens_per_second = 0;
  double forward_ms = 0;
  double backward_ms = 0;
  double exposed_step_ms = 0;  ///< blocked inside the library
  double eta_seconds = 0;
};

/// One line without its end: "step 12/200  bits/byte 3.412  norm 1.23  clip 0.812  52.1k tokens/s  forward 10.2 ms
/// ...".
std::string FormatProgress(const StepProgress& progress);

/// "41 s", "3 min 07 s", "2 h 05 min"; "?" when not finite or negative.
std::string FormatDuration(double seconds);

/// Shows steps as they finish: on a terminal one line that overwrites itself, elsewhere one line per step. One thread.
class ProgressLine {
 public:
  /// `out` must outlive this object. `columns` of the terminal behind it, which the line is cut to; 0: none.
  ProgressLine(std::ostream& out, int columns) : out_(out), columns_(columns) {}
  /// Leaves the last line standing.
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void Show(const StepProgress& progress);
  /// A line of its own, above the progress line.
  void Print(absl::string_view line);

 private:
  std::ostream& out_;
  int columns_;
  std::string shown_;  ///< what stands on the terminal's last line
};

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_TRAIN_PROGRESS_H_
