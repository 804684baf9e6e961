#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "shardstep/tools/precision/precision_results.h"

namespace shardstep {
namespace {

constexpr char kStyle[] = R"gnuplot(# Draws every plot as SVG and PNG: cd to this folder, then gnuplot plots.gp
set datafile missing "?"
set grid lt 1 lw 1 lc rgb "#cccccc"
set rmargin 5
set border 3
set tics nomirror out
set style line 1 lc rgb "#c0392b" lw 2.5 pt 7 ps 0.8
set style line 2 lc rgb "#e08e0b" lw 1.5 pt 5 ps 0.8
set style line 3 lc rgb "#1f5fa8" lw 2.5 pt 9 ps 0.9
set style line 4 lc rgb "#222222" lw 1.5 dt 2
)gnuplot";

constexpr char kSvg[] = R"(
set terminal svg size 900,540 font "sans-serif,14" background rgb "white"
)";
constexpr char kPng[] = R"(
set terminal pngcairo size 1350,810 font "sans,16" background rgb "white"
)";

// KIND is the suffix of the terminal set before. Both plots of sums have the same axis of errors, to be compared.
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

std::string Script() {
  return absl::StrCat(kStyle, kSvg, absl::StrReplaceAll(kPlots, {{"KIND", "svg"}}), kPng,
                      absl::StrReplaceAll(kPlots, {{"KIND", "png"}}));
}

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

}  // namespace

std::vector<PlotFile> PrecisionPlots(const PrecisionResults& results) {
  return {{"weight_over_steps.dat", WeightsData(results.many_updates)},
          {"micro_gradient_sums.dat", SumsData(results.micro_gradient_sums)},
          {"rank_sums.dat", SumsData(results.rank_sums)},
          {"plots.gp", Script()}};
}

}  // namespace shardstep
