#ifndef SHARDSTEP_TOOLS_PRECISION_PRECISION_RESULTS_H_
#define SHARDSTEP_TOOLS_PRECISION_PRECISION_RESULTS_H_

#include <string>
#include <vector>

#include "shardstep/tools/gnuplot.h"
#include "shardstep/tools/precision/gradient_sums.h"
#include "shardstep/tools/precision/many_updates.h"
#include "shardstep/tools/precision/master_training.h"
#include "shardstep/tools/precision/number_range.h"
#include "shardstep/tools/precision/one_update.h"
#include "shardstep/tools/precision/precision_options.h"

namespace shardstep {

/// All that one run of shardstep_precision computes: a pure function of its options, but for `trainings`, whose last
/// digits also depend on the kind of CPU.
struct PrecisionResults {
  PrecisionOptions options;
  UpdateInputs inputs;
  OneUpdate one_update;
  ManyUpdates many_updates;
  std::vector<SumErrors> micro_gradient_sums;
  std::vector<SumErrors> rank_sums;
  std::vector<FormatLimits> formats;
  std::vector<RoundTrip> round_trips;
  MasterTrainings trainings;  ///< without runs unless TrainWithMasters was asked for them
};
/// Everything but `trainings`.
PrecisionResults ComputePrecisionResults(const PrecisionOptions& options);

/// For people, at most 100 columns.
std::string PrecisionTables(const PrecisionResults& results);

/// One JSON object and a line feed. Numbers have all their digits; infinity is the string "inf".
std::string PrecisionJson(const PrecisionResults& results);

/// Data files, and the gnuplot script plots.gp, which draws each plot as SVG and PNG into the folder it runs in.
std::vector<PlotFile> PrecisionPlots(const PrecisionResults& results);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_PRECISION_PRECISION_RESULTS_H_
