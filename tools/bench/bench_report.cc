#include "shardstep/tools/bench/bench_report.h"

#include <algorithm>
#include <cerrno>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "shardstep/tools/bench/bench_table.h"
#include "shardstep/tools/text_file.h"

namespace shardstep {
namespace {

constexpr int kMsDigits = 3;

// The one place that knows the columns.
std::vector<TableCell> Cells(const BenchRow& row) {
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
      NumberCell("step_ms", 11, step_ms, kMsDigits),
      NumberCell("step_ms_min", 12, extreme(least), kMsDigits),
      NumberCell("step_ms_max", 12, extreme(most), kMsDigits),
      {"bytes_per_parameter", 20, number(bytes), false},
      NumberCell("gb_per_s", 9, bytes * static_cast<double>(row.parameters) / (1e6 * step_ms), 2),
      NumberCell("floor_ms", 11, row.floor_ms(), kMsDigits),
      NumberCell("floor_ratio", 12, row.floor_ratio(), kMsDigits),
      NumberCell("exposed_ms", 11, row.exposed_ms(), kMsDigits),
      {"wrong", 7, row.wrong ? number(*row.wrong) : kMissingCell, !row.wrong},
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

std::string BenchHeader() { return TableHeader(Cells({})); }
std::string BenchLine(const BenchRow& row) { return TableLine(Cells(row)); }
std::string BenchJson(const BenchRow& row) { return TableJson(Cells(row)); }

absl::Status AppendText(const std::string& file, const std::string& text) {
  errno = 0;
  std::ofstream out(file, std::ios::app);
  out << text << std::flush;
  return out ? absl::OkStatus() : Refusal(errno, absl::StrCat("appending to ", file));
}

}  // namespace shardstep
