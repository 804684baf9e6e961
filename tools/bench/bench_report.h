#ifndef SHARDSTEP_TOOLS_BENCH_BENCH_REPORT_H_
#define SHARDSTEP_TOOLS_BENCH_BENCH_REPORT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "shardstep/comm/status.h"
#include "shardstep/tools/bench/bench_options.h"
#include "shardstep/tools/bench/step_cost.h"

namespace shardstep {

/// One line: a step, and its distance to the floor.
struct BenchRow {
  StepCase step;
  int64_t parameters = 0;
  std::string wire;                 ///< "exact", "host_sum", or a baseline's name
  std::optional<double> max_norm;   ///< --clip
  std::vector<double> step_ms;      ///< one per round
  std::vector<double> gradient_ms;  ///< the floor before the decision, one per round
  std::vector<double> update_ms;    ///< after it
  std::vector<double> compute_ms;   ///< the emulated passes alone; empty: none
  std::optional<int64_t> wrong;     ///< weights; unset: not compared

  /// Of the medians: memory's and the wire's; with emulated passes that, or theirs where it is longer, as a step can
  /// hide all but the longer of both.
  double floor_ms() const;
  double floor_ratio() const;  ///< of the medians
  double exposed_ms() const;   ///< of the medians: what the step adds to the passes
};

double Median(std::vector<double> values);

/// The columns' names, and their values in one line of text; the keys, and their values as a JSON object.
std::string BenchHeader();
std::string BenchLine(const BenchRow& row);
std::string BenchJson(const BenchRow& row);

/// Creates `file` when there is none. The error, meant for ExitCode::kIo, names the file.
absl::Status AppendText(const std::string& file, const std::string& text);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_BENCH_REPORT_H_
