#ifndef SHARDSTEP_TOOLS_GNUPLOT_H_
#define SHARDSTEP_TOOLS_GNUPLOT_H_

#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "shardstep/comm/status.h"

namespace shardstep {

/// A file for gnuplot: its name and what is in it.
struct PlotFile {
  std::string name;
  std::string text;
};

/// A script that draws `plots`, gnuplot commands with KIND for the suffix of a picture's name, as SVG and as PNG into
/// the folder it runs in. All of our pictures look alike: line styles 1 red, 2 orange, 3 blue, 4 black and dashed, 5
/// green;
/// "?" in the data is a missing point.
std::string GnuplotScript(absl::string_view plots);

/// `text` as a string of a script.
std::string GnuplotString(absl::string_view text);

/// Makes `directory`, if need be, and the files in it. Errors are meant for ExitCode::kIo and name the file.
absl::Status WritePlotFiles(const std::string& directory, absl::Span<const PlotFile> files);

/// FailedPrecondition when there is no gnuplot to run.
absl::Status RequireGnuplot();

/// Lets gnuplot run the script of that name in `directory` ("" is this one), and waits. It says itself, on standard
/// error, what it does not like; the error names the script.
absl::Status RunGnuplot(const std::string& directory, const std::string& script);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_GNUPLOT_H_
