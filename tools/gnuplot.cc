#include "shardstep/tools/gnuplot.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "shardstep/tools/text_file.h"

namespace shardstep {
namespace {

constexpr char kStyle[] =
    R"gnuplot(# Draws every plot as SVG and PNG: cd to this folder, then run gnuplot with this file.
set datafile missing "?"
set grid lt 1 lw 1 lc rgb "#cccccc"
set rmargin 5
set border 3
set tics nomirror out
set style line 1 lc rgb "#c0392b" lw 2.5 pt 7 ps 0.8
set style line 2 lc rgb "#e08e0b" lw 1.5 pt 5 ps 0.8
set style line 3 lc rgb "#1f5fa8" lw 2.5 pt 9 ps 0.9
set style line 4 lc rgb "#222222" lw 1.5 dt 2
set style line 5 lc rgb "#2e8b57" lw 2.5 pt 13 ps 0.9
)gnuplot";

constexpr char kSvg[] = R"(
set terminal svg size 900,540 font "sans-serif,14" background rgb "white"
)";
constexpr char kPng[] = R"(
set terminal pngcairo size 1350,810 font "sans,16" background rgb "white"
)";

constexpr char kProgram[] = "gnuplot";

// The exit code of gnuplot with one argument; 127: it could not be started.
absl::StatusOr<int> Run(const std::string& directory, std::string argument, bool quiet) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (!directory.empty()) posix_spawn_file_actions_addchdir_np(&actions, directory.c_str());
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  if (quiet) posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  std::string program = kProgram;
  char* const arguments[] = {program.data(), argument.data(), nullptr};
  pid_t child = 0;
  const int error = posix_spawnp(&child, kProgram, &actions, nullptr, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return Refusal(error, "starting gnuplot");
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return Refusal(errno, "waiting for gnuplot");
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

std::string GnuplotScript(absl::string_view plots) {
  return absl::StrCat(kStyle, kSvg, absl::StrReplaceAll(plots, {{"KIND", "svg"}}), kPng,
                      absl::StrReplaceAll(plots, {{"KIND", "png"}}));
}

std::string GnuplotString(absl::string_view text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "''"}}), "'");
}

absl::Status WritePlotFiles(const std::string& directory, absl::Span<const PlotFile> files) {
  std::error_code error;
  if (!directory.empty()) std::filesystem::create_directories(directory, error);
  if (error) return Refusal(error.value(), absl::StrCat("creating ", directory));
  for (const PlotFile& file : files) {
    SHARDSTEP_RETURN_IF_ERROR(WriteTextFile(std::filesystem::path(directory) / file.name, file.text));
  }
  return absl::OkStatus();
}

absl::Status RequireGnuplot() {
  const absl::StatusOr<int> code = Run("", "--version", true);
  if (code.ok() && *code == 0) return absl::OkStatus();
  return absl::FailedPreconditionError("there is no gnuplot to draw with: apt-get install gnuplot-nox");
}

absl::Status RunGnuplot(const std::string& directory, const std::string& script) {
  SHARDSTEP_ASSIGN_OR_RETURN(const int code, Run(directory, script, false));
  if (code == 0) return absl::OkStatus();
  return absl::UnknownError(
      absl::StrCat("gnuplot ended with ", code, " drawing ", (std::filesystem::path(directory) / script).string()));
}

}  // namespace shardstep
