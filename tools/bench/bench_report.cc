#include "shardstep/tools/bench/bench_report.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "shardstep/tools/text_file.h"

namespace shardstep {
namespace {

struct Cell {
  const char* column;
  int width;
  std::string value;
  bool is_text;
};

constexpr const char* kMissing = "-";
constexpr int kMsDigits = 3;

// What divides by a time that was not measured is missing.
Cell Number(const char* column, int width, double value, int digits) {
  if (!std::isfinite(value)) return {column, width, kMissing, true};
  return {column, width, absl::StrFormat("%.*f", digits, value), false};
}

// The one place that knows the columns.
std::vector<Cell> Cells(const BenchRow& row) {
  const double bytes = CountMemoryCost(row.step).total();
  const double step_ms = Median(row.step_ms);
  const auto number = [](auto value) { return absl::StrCat(value); };
  const auto extreme = [&](auto choose) {
    return row.step_ms.empty() ? 0.0 : *choose(row.step_ms.begin(), row.step_ms.end());
  };
  using Iterator = std::vector<double>::const_iterator;
  const auto least = [](Iterator first, Iterator last) { return std::min_element(first, last); };
  const auto most = [](Iterator first, Iterator last) { return std::max_element(first, last); };
  return {
      {"parameters", 11, number(row.parameters), false},
      {"ranks", 6, number(row.step.ranks), false},
      {"hosts", 6, number(row.step.hosts), false},
      {"rule", 6, std::string(Name(row.step.update.rule)), true},
      {"master", 7, absl::AsciiStrToLower(Name(row.step.update.master)), true},
      {"wire", 22, row.wire, true},
      {"weights", 8, row.step.private_weights ? "private" : "shared", true},
      {"micro_steps", 12, number(row.step.micro_steps), false},
      {"clip", 6, row.max_norm ? number(*row.max_norm) : "off", !row.max_norm},
      Number("step_ms", 11, step_ms, kMsDigits),
      Number("step_ms_min", 12, extreme(least), kMsDigits),
      Number("step_ms_max", 12, extreme(most), kMsDigits),
      {"bytes_per_parameter", 20, number(bytes), false},
      Number("gb_per_s", 9, bytes * static_cast<double>(row.parameters) / (1e6 * step_ms), 2),
      Number("floor_ms", 11, row.floor_ms(), kMsDigits),
      Number("floor_ratio", 12, row.floor_ratio(), kMsDigits),
      Number("exposed_ms", 11, row.exposed_ms(), kMsDigits),
      {"wrong", 7, row.wrong ? number(*row.wrong) : kMissing, !row.wrong},
  };
}

}  // namespace

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

double BenchRow::floor_ms() const { return std::max(Median(gradient_ms) + Median(update_ms), Median(compute_ms)); }

double BenchRow::floor_ratio() const { return Median(step_ms) / floor_ms(); }

double BenchRow::exposed_ms() const { return Median(step_ms) - Median(compute_ms); }

std::string BenchHeader() {
  std::string line;
  for (const Cell& cell : Cells({})) absl::StrAppend(&line, absl::StrFormat(" %*s", cell.width, cell.column));
  return line;
}

std::string BenchLine(const BenchRow& row) {
  std::string line;
  for (const Cell& cell : Cells(row)) absl::StrAppend(&line, absl::StrFormat(" %*s", cell.width, cell.value));
  return line;
}

std::string BenchJson(const BenchRow& row) {
  std::vector<std::string> fields;
  for (const Cell& cell : Cells(row)) {
    // What is missing is null; other texts here need no escapes.
    const std::string text = cell.value == kMissing ? "null" : absl::StrCat("\"", cell.value, "\"");
    fields.push_back(absl::StrCat("\"", cell.column, "\":", cell.is_text ? text : cell.value));
  }
  return absl::StrCat("{", absl::StrJoin(fields, ","), "}");
}

absl::Status AppendText(const std::string& file, const std::string& text) {
  errno = 0;
  std::ofstream out(file, std::ios::app);
  out << text << std::flush;
  return out ? absl::OkStatus() : Refusal(errno, absl::StrCat("appending to ", file));
}

}  // namespace shardstep
