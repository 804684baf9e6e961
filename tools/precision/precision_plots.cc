#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "shardstep/tools/gnuplot.h"
#include "shardstep/tools/precision/precision_results.h"

namespace shardstep {
namespace {

// Both plots of sums have the same axis of errors, to be compared.
constexpr char kPlots[] = R"gnuplot(
set output "weight_over_steps.KIND"
unset logscale
set format "%g"
set format x "%.0f"
set xtics autofreq
set yrange [0:*]
set title "One weight, the same small update again and again"
set xlabel "updates"
set ylabel "weight"
set key left bottom Left reverse
plot "weight_over_steps.dat" using 1:3 with lines ls 1 title "bf16, rounded to nearest", \
     "" using 1:4 with lines ls 2 title "bf16, rounded at random", \
     "" using 1:5 with lines ls 3 title "fp32", \
     "" using 1:2 with lines ls 4 title "exact"

set logscale x 2
set xtics 2
set logscale y 10
set format x "%.0f"
set format y "10^{%T}"
set yrange [1e-10:2]
set ylabel "relative L2 error of the sum"
set key left center Left reverse

set output "micro_gradient_sums.KIND"
set title "Adding up micro-gradients (no point: exact)"
set xlabel "micro-gradients"
plot "micro_gradient_sums.dat" using 1:2 with linespoints ls 1 title "bf16, rounded at every addition", \
     "" using 1:4 with linespoints ls 2 title "fp32, rounded to bf16 once", \
     "" using 1:3 with linespoints ls 3 title "fp32"

set output "rank_sums.KIND"
set title "Adding up gradients over ranks (no point: exact)"
set xlabel "ranks"
plot "rank_sums.dat" using 1:2 with linespoints ls 1 title "bf16 ring, rounded at every hop", \
     "" using 1:4 with linespoints ls 2 title "fp32 in rank order, rounded to bf16 once", \
     "" using 1:3 with linespoints ls 3 title "fp32 in rank order (Shardstep)"

unset output
)gnuplot";

// The runs differ less than a run changes, so the difference has a plot of its own.
constexpr char kTrainingPlot[] = R"gnuplot(
set output "master_training.KIND"
unset logscale
set xtics autofreq
set format x "%.0f"
set format y "%g"
set yrange [*:*]
set lmargin 10
set multiplot layout 2,1 title "The same training run with another master each time"
unset title
unset xlabel
set ylabel "held-out bits per byte"
set key right top Right noreverse
plot "master_training.dat" using 1:4 with linespoints ls 1 title "no master, rounded to nearest", \
     "" using 1:2 with linespoints ls 3 title "FP32", \
     "" using 1:3 with linespoints ls 5 title "SPLIT", \
     "" using 1:5 with linespoints ls 2 title "no master, rounded at random"
set xlabel "steps"
set ylabel "more than FP32"
plot "master_training.dat" using 1:($4-$2) with linespoints ls 1 notitle, \
     "" using 1:($3-$2) with linespoints ls 5 notitle, \
     "" using 1:($5-$2) with linespoints ls 2 notitle
unset multiplot
unset lmargin
unset output
)gnuplot";

std::string WeightsData(const ManyUpdates& updates) {
  std::string text = "# step exact bf16_nearest bf16_stochastic fp32\n";
  for (const WeightAtStep& weight : updates.weights) {
    absl::StrAppendFormat(&text, "%d %.17g %.9g %.9g %.9g\n", weight.step, weight.exact, ToFloat(weight.nearest),
                          ToFloat(weight.stochastic), weight.fp32);
  }
  return text;
}

// A logarithmic axis has no place for an error of zero.
std::string LogValue(double value) { return value > 0 ? absl::StrFormat("%.17g", value) : "?"; }

std::string SumsData(const std::vector<SumErrors>& sums) {
  std::string text = "# count bf16 fp32 fp32_then_bf16; ? is an error of zero\n";
  for (const SumErrors& sum : sums) {
    absl::StrAppend(&text, sum.count, " ", LogValue(sum.bf16), " ", LogValue(sum.fp32), " ",
                    LogValue(sum.fp32_then_bf16), "\n");
  }
  return text;
}

std::string TrainingData(const MasterTrainings& trainings) {
  std::string text = "# step fp32 split none_nearest none_stochastic: held-out bits per byte\n";
  for (size_t i = 0; i < trainings.runs.front().held_out.size(); ++i) {
    absl::StrAppend(&text, trainings.runs.front().held_out[i].step);
    for (const MasterTraining& run : trainings.runs) {
      absl::StrAppendFormat(&text, " %.17g", run.held_out[i].bits_per_byte);
    }
    absl::StrAppend(&text, "\n");
  }
  return text;
}

}  // namespace

std::vector<PlotFile> PrecisionPlots(const PrecisionResults& results) {
  std::vector<PlotFile> files = {
      {"weight_over_steps.dat", WeightsData(results.many_updates)},
      {"micro_gradient_sums.dat", SumsData(results.micro_gradient_sums)},
      {"rank_sums.dat", SumsData(results.rank_sums)},
  };
  if (results.trainings.runs.empty()) {
    files.push_back({"plots.gp", GnuplotScript(kPlots)});
  } else {
    files.push_back({"master_training.dat", TrainingData(results.trainings)});
    files.push_back({"plots.gp", GnuplotScript(absl::StrCat(kPlots, kTrainingPlot))});
  }
  return files;
}

}  // namespace shardstep
