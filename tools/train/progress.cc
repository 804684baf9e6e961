#include "shardstep/tools/train/progress.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace shardstep {
namespace {

constexpr char kReturnAndClear[] = "\r\x1b[K";

std::string FormatRate(double per_second) {
  if (per_second >= 1e6) return absl::StrFormat("%.2fM", per_second / 1e6);
  if (per_second >= 1e3) return absl::StrFormat("%.1fk", per_second / 1e3);
  return absl::StrFormat("%.0f", per_second);
}

}  // namespace

std::string FormatDuration(double seconds) {
  if (!(seconds >= 0 && seconds < 1e9)) return "?";
  const int64_t whole = std::llround(seconds);
  if (whole < 60) return absl::StrFormat("%d s", whole);
  if (whole < 3600) return absl::StrFormat("%d min %02d s", whole / 60, whole % 60);
  return absl::StrFormat("%d h %02d min", whole / 3600, whole / 60 % 60);
}

std::string FormatProgress(const StepProgress& progress) {
  std::string line =
      absl::StrFormat("step %d/%d  bits/byte %.4f", progress.step, progress.steps, progress.bits_per_byte);
  if (progress.gradient_norm.has_value()) absl::StrAppendFormat(&line, "  norm %.4g", *progress.gradient_norm);
  if (progress.applied) {
    absl::StrAppendFormat(&line, "  clip %.3f", progress.clip_factor);
  } else {
    absl::StrAppend(&line, "  SKIPPED");
  }
  absl::StrAppendFormat(&line, "  %s tokens/s  forward %.1f ms  backward %.1f ms  exposed step %.1f ms  ETA %s",
                        FormatRate(progress.tokens_per_second), progress.forward_ms, progress.backward_ms,
                        progress.exposed_step_ms, FormatDuration(progress.eta_seconds));
  return line;
}

ProgressLine::~ProgressLine() {
  if (!shown_.empty()) out_ << '\n' << std::flush;
}

void ProgressLine::Show(const StepProgress& progress) {
  std::string line = FormatProgress(progress);
  if (columns_ > 0) {
    // A line that wraps could not be overwritten, nor one that fills the last column.
    line.resize(std::min(line.size(), static_cast<size_t>(columns_) - 1));
    out_ << kReturnAndClear << line << std::flush;
    shown_ = line;
  } else {
    out_ << line << '\n' << std::flush;
  }
}

void ProgressLine::Print(absl::string_view line) {
  if (shown_.empty()) {
    out_ << line << '\n' << std::flush;
  } else {
    out_ << kReturnAndClear << line << '\n' << shown_ << std::flush;
  }
}

}  // namespace shardstep
