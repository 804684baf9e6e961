// shardstep_precision: why weights are not updated, and gradients not summed, in bf16; measured.
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "shardstep/tools/exit_code.h"
#include "shardstep/tools/precision/precision_results.h"

namespace shardstep {
namespace {

absl::Status WriteFile(const std::filesystem::path& path, const std::string& text) {
  errno = 0;
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (file) return absl::OkStatus();
  return absl::ErrnoToStatus(errno != 0 ? errno : EIO, absl::StrCat("writing ", path.string()));
}

absl::Status WritePlots(const std::filesystem::path& directory, const PrecisionResults& results) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("creating ", directory.string()));
  for (const PlotFile& file : PrecisionPlots(results)) {
    SHARDSTEP_RETURN_IF_ERROR(WriteFile(directory / file.name, file.text));
  }
  return absl::OkStatus();
}

absl::Status Run(const PrecisionOptions& options) {
  const PrecisionResults results = ComputePrecisionResults(options);
  std::cout << PrecisionTables(results) << std::flush;
  if (!std::cout) return absl::ErrnoToStatus(EIO, "writing the tables");
  if (!options.json_file.empty()) SHARDSTEP_RETURN_IF_ERROR(WriteFile(options.json_file, PrecisionJson(results)));
  if (!options.gnuplot_directory.empty()) SHARDSTEP_RETURN_IF_ERROR(WritePlots(options.gnuplot_directory, results));
  return absl::OkStatus();
}

int Report(const absl::Status& status, Phase phase) {
  if (!status.ok()) std::cerr << "shardstep_precision: " << status << std::endl;
  return static_cast<int>(ExitCodeOf(status, phase));
}

int Main(int argc, char** argv) {
  const auto options = ParsePrecisionOptions({argv + 1, static_cast<size_t>(argc - 1)});
  if (!options.ok()) return Report(options.status(), Phase::kCommandLine);
  if (options->help) {
    std::cout << PrecisionHelp();
    return 0;
  }
  return Report(Run(*options), Phase::kRun);
}

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) { return shardstep::Main(argc, argv); }
