// shardstep_precision: why weights are not updated, and gradients not summed, in bf16; measured.
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <system_error>

#include "shardstep/tools/exit_code.h"
#include "shardstep/tools/precision/precision_results.h"

namespace shardstep {
namespace {

// The operating system's refusal, of whatever kind, ends the program with ExitCode::kIo.
absl::Status Refusal(int error, const std::string& what) {
  return absl::UnknownError(absl::StrCat(what, ": ", std::generic_category().message(error)));
}

absl::Status WriteFile(const std::filesystem::path& path, const std::string& text) {
  errno = 0;
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (file) return absl::OkStatus();
  return Refusal(errno != 0 ? errno : EIO, "writing " + path.string());
}

absl::Status WritePlots(const std::filesystem::path& directory, const PrecisionResults& results) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return Refusal(error.value(), "creating " + directory.string());
  for (const PlotFile& file : PrecisionPlots(results)) {
    SHARDSTEP_RETURN_IF_ERROR(WriteFile(directory / file.name, file.text));
  }
  return absl::OkStatus();
}

absl::Status Print(const std::string& text) {
  errno = 0;
  std::cout << text << std::flush;
  return std::cout ? absl::OkStatus() : Refusal(errno != 0 ? errno : EIO, "writing to standard output");
}

absl::Status Run(const PrecisionOptions& options) {
  const PrecisionResults results = ComputePrecisionResults(options);
  SHARDSTEP_RETURN_IF_ERROR(Print(PrecisionTables(results)));
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
  return Report(options->help ? Print(PrecisionHelp()) : Run(*options), Phase::kRun);
}

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) { return shardstep::Main(argc, argv); }
