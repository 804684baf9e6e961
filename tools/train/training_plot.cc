#include "shardstep/tools/train/training_plot.h"

#include <cerrno>
#include <filesystem>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "shardstep/tools/gnuplot.h"
#include "shardstep/tools/text_file.h"

namespace shardstep {
namespace {

constexpr char kStepsHeader[] = "# step bits_per_byte forward_ms backward_ms exposed_ms step_ms\n";
constexpr char kHeldOutHeader[] = "# step bits_per_byte\n";

// STEPS, HELD_OUT: data files; NAME: of the pictures. Steps differ from each other by chance, so each is a dot, and a
// line goes through the means of some hundred stretches of the run.
constexpr char kPlots[] = R"gnuplot(
# stats leaves out what the axes do.
unset logscale
set xrange [*:*]
set yrange [*:*]
larger(a, b) = a > b ? a : b
smaller(a, b) = a < b ? a : b
stats STEPS using 1 nooutput name "run"
stats STEPS using 2 nooutput name "loss"
stats STEPS using 3 nooutput name "forward"
stats STEPS using 4 nooutput name "backward"
stats STEPS using 5 nooutput name "exposed"
stats STEPS using 6 nooutput name "step"
stretch = ceil(run_records / 150.0)
middle(step) = (floor((step - run_min) / stretch) + 0.5) * stretch + run_min - 0.5

set format x "%.0f"
set xrange [0:run_max]
set xlabel "steps"
set logscale y
set format y "%g"

set output PICTURE(.loss.KIND)
set title "Loss"
set ylabel "bits per byte"
set ytics (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
set yrange [loss_min * 0.95:loss_max * 1.05]
plot STEPS using 1:2 with points pt 7 ps 0.4 lc rgb "#e8a9a1" title "training, each step", \
     "" using (middle($1)):2 smooth unique with lines ls 1 title "training, mean"HELD_OUT_CURVE

set output PICTURE(.phases.KIND)
set title "Where the time of a step goes"
set ylabel "milliseconds, mean"
set ytics autofreq
# Room for the key; a few slow steps are not worth the scale.
set yrange [0.3 * smaller(exposed_lo_quartile, step_lo_quartile) + 1e-6: \
            20 * larger(larger(forward_up_quartile, backward_up_quartile), step_up_quartile) + 1e-6]
plot STEPS using (middle($1)):3 smooth unique with lines ls 3 title "forward", \
     "" using (middle($1)):4 smooth unique with lines ls 1 title "backward", \
     "" using (middle($1)):6 smooth unique with lines ls 2 title "optimizer: from Step to its last update", \
     "" using (middle($1)):5 smooth unique with lines ls 5 title "exposed: the trainer was blocked in the library"

unset output
)gnuplot";

absl::string_view HeldOutCurve(bool has_held_out) {
  if (!has_held_out) return "";
  return ", \\\n     HELD_OUT using 1:2 with linespoints ls 3 title \"held-out\"";
}

// The lines of a data file of steps up to `after_step`.
std::string LinesUpTo(int64_t after_step, const std::string& path) {
  std::string kept;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
    int64_t step = 0;
    if (absl::SimpleAtoi(words.front(), &step) && step <= after_step) absl::StrAppend(&kept, line, "\n");
  }
  return kept;
}

}  // namespace

absl::Status TrainingPlot::DataFile::Begin(absl::string_view header, int64_t after_step, bool* has_lines) {
  const std::string kept = after_step > 0 ? LinesUpTo(after_step, path) : "";
  SHARDSTEP_RETURN_IF_ERROR(WriteTextFile(path, absl::StrCat(header, kept)));
  *has_lines = !kept.empty();
  errno = 0;
  stream.open(path, std::ios::app);
  return stream ? absl::OkStatus() : Refusal(errno, absl::StrCat("writing ", path));
}

absl::Status TrainingPlot::DataFile::Add(absl::string_view line) {
  errno = 0;
  stream << line << std::flush;
  return stream ? absl::OkStatus() : Refusal(errno, absl::StrCat("writing ", path));
}

absl::StatusOr<std::unique_ptr<TrainingPlot>> TrainingPlot::Create(const std::string& prefix) {
  SHARDSTEP_RETURN_IF_ERROR(RequireGnuplot());
  return std::unique_ptr<TrainingPlot>(new TrainingPlot(prefix));
}

absl::Status TrainingPlot::Begin(int64_t after_step) {
  SHARDSTEP_RETURN_IF_ERROR(steps_.Begin(kStepsHeader, after_step, &has_steps_));
  return held_out_.Begin(kHeldOutHeader, after_step, &has_held_out_);
}

absl::Status TrainingPlot::AddStep(const TrainedStep& step) {
  const StepRecord& record = step.record;
  has_steps_ = true;
  return steps_.Add(absl::StrFormat("%d %.6g %.4g %.4g %.4g %.4g\n", record.step, step.bits_per_byte, step.forward_ms,
                                    step.backward_ms, static_cast<double>(record.exposed_ns) * 1e-6,
                                    static_cast<double>(record.step_ns) * 1e-6));
}

absl::Status TrainingPlot::AddHeldOut(int64_t step, double bits_per_byte) {
  has_held_out_ = true;
  return held_out_.Add(absl::StrFormat("%d %.6g\n", step, bits_per_byte));
}

absl::Status TrainingPlot::Draw() {
  if (!has_steps_) return absl::OkStatus();
  const std::filesystem::path prefix(prefix_);
  const std::string name = prefix.filename();
  const std::string directory = prefix.parent_path();
  SHARDSTEP_RETURN_IF_ERROR(
      WritePlotFiles(directory, {{{.name = name + ".gp", .text = TrainingPlotScript(name, has_held_out_)}}}));
  return RunGnuplot(directory, name + ".gp");
}

std::string TrainingPlotScript(absl::string_view name, bool has_held_out) {
  const std::string plots = absl::StrReplaceAll(kPlots, {{"HELD_OUT_CURVE", HeldOutCurve(has_held_out)}});
  std::string script = GnuplotScript(plots);
  // Last, as a name may hold anything.
  std::vector<std::pair<std::string, std::string>> names = {
      {"STEPS", GnuplotString(absl::StrCat(name, ".steps.dat"))},
      {"HELD_OUT", GnuplotString(absl::StrCat(name, ".held_out.dat"))}};
  for (const char* picture : {".loss.svg", ".loss.png", ".phases.svg", ".phases.png"}) {
    names.emplace_back(absl::StrCat("PICTURE(", picture, ")"), GnuplotString(absl::StrCat(name, picture)));
  }
  return absl::StrReplaceAll(script, names);
}

}  // namespace shardstep
