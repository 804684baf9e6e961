// shardstep_precision: why weights are not updated, and gradients not summed, in bf16; measured.
#include <cerrno>
#include <iostream>
#include <optional>
#include <string>
#include <utility>

#include "shardstep/tools/exit_code.h"
#include "shardstep/tools/precision/precision_results.h"
#include "shardstep/tools/text_file.h"

namespace shardstep {
namespace {

absl::Status Print(const std::string& text) {
  errno = 0;
  std::cout << text << std::flush;
  return std::cout ? absl::OkStatus() : Refusal(errno, "writing to standard output");
}

absl::Status Run(const PrecisionOptions& options, const std::optional<Corpus>& corpus) {
  PrecisionResults results = ComputePrecisionResults(options);
  if (corpus.has_value()) {
    const auto tell = [](absl::string_view line) { std::cerr << "shardstep_precision: " << line << std::endl; };
    SHARDSTEP_ASSIGN_OR_RETURN(results.trainings, TrainWithMasters(options.training, *corpus, tell));
  }
  SHARDSTEP_RETURN_IF_ERROR(Print(PrecisionTables(results)));
  if (!options.json_file.empty()) SHARDSTEP_RETURN_IF_ERROR(WriteTextFile(options.json_file, PrecisionJson(results)));
  if (options.gnuplot_directory.empty()) return absl::OkStatus();
  return WritePlotFiles(options.gnuplot_directory, PrecisionPlots(results));
}

int Report(const absl::Status& status, Phase phase) {
  if (!status.ok()) std::cerr << "shardstep_precision: " << status << std::endl;
  return static_cast<int>(ExitCodeOf(status, phase));
}

int Main(int argc, char** argv) {
  const auto options = ParsePrecisionOptions({argv + 1, static_cast<size_t>(argc - 1)});
  if (!options.ok()) return Report(options.status(), Phase::kCommandLine);
  if (options->help) return Report(Print(PrecisionHelp()), Phase::kRun);
  std::optional<Corpus> corpus;
  if (!options->data_file.empty()) {
    absl::StatusOr<Corpus> opened = Corpus::Open(options->data_file, kTrainingContext);
    if (!opened.ok()) return Report(opened.status(), Phase::kData);
    corpus = *std::move(opened);
  }
  return Report(Run(*options, corpus), Phase::kRun);
}

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) { return shardstep::Main(argc, argv); }
