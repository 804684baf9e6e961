#include "shardstep/tools/bench/cuda_report.h"

#include <algorithm>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "shardstep/tools/bench/bench_report.h"
#include "shardstep/tools/bench/bench_table.h"

namespace shardstep {
namespace {

constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();
constexpr int kDigits = 3;

double Ratio(double a, double b) { return a > 0 && b > 0 ? a / b : kNotMeasured; }

double GbPerSecond(double bytes, double milliseconds) { return Ratio(bytes / 1e6, milliseconds); }

// The one place that knows the columns.
std::vector<TableCell> Cells(const CudaBenchRow& row) {
  const auto number = [](auto value) { return absl::StrCat(value); };
  const double bytes = CountMemoryCost(row.step).total();
  const double step_ms = Median(row.step_ms);
  const double least = row.step_ms.empty() ? 0 : *std::min_element(row.step_ms.begin(), row.step_ms.end());
  const double most = row.step_ms.empty() ? 0 : *std::max_element(row.step_ms.begin(), row.step_ms.end());
  const auto of_all = static_cast<double>(row.parameters);
  return {
      // One word, that needs no escape.
      {"device", 24, absl::StrReplaceAll(row.device, {{" ", "_"}, {"\"", ""}, {"\\", ""}}), true},
      {"parameters", 11, number(row.parameters), false},
      {"ranks", 6, number(row.step.ranks), false},
      {"rule", 6, std::string(Name(row.step.update.rule)), true},
      {"master", 7, absl::AsciiStrToLower(Name(row.step.update.master)), true},
      {"transport", 10, row.transport, true},
      {"exchange", 20, row.exchange, true},
      {"graph", 6, row.graph ? "yes" : "no", true},
      {"micro_steps", 12, number(row.step.micro_steps), false},
      {"clip", 6, row.max_norm ? number(*row.max_norm) : "off", !row.max_norm},
      NumberCell("step_ms", 10, step_ms, kDigits),
      NumberCell("step_ms_min", 12, least, kDigits),
      NumberCell("step_ms_max", 12, most, kDigits),
      {"bytes_per_parameter", 20, number(bytes), false},
      // Of one GPU.
      NumberCell("gb_per_s", 9, GbPerSecond(bytes * of_all / row.step.ranks, step_ms), 1),
      NumberCell("floor_ms", 10, row.floor_ms(), kDigits),
      NumberCell("floor_ratio", 12, row.floor_ratio(), kDigits),
      {"floor_by", 9, row.floor_has_twins ? "twins" : "copies", true},
      NumberCell("wire_ms", 10, row.wire_ms.empty() ? kNotMeasured : Median(row.wire_ms), kDigits),
      NumberCell("update_of_twin", 15, row.update.of_twin(), kDigits),
      NumberCell("update_of_copy", 15, row.update_of_copy(), kDigits),
      NumberCell("norm_of_twin", 13, row.norm.of_twin(), kDigits),
      NumberCell("copy_gb_per_s", 14, row.copy_gb_per_s(), 1),
      {"blocking_calls", 15, number(row.blocking_calls), false},
      NumberCell("memory_mb", 10, row.memory_bytes / 1e6, 1),
      NumberCell("estimated_mb", 13, row.estimated_bytes / 1e6, 1),
      {"wrong", 7, row.wrong ? number(*row.wrong) : kMissingCell, !row.wrong},
  };
}

}  // namespace

double CudaKernelTimes::of_twin() const { return Ratio(Median(twin_ms), Median(kernel_ms)); }

double CudaBenchRow::floor_ms() const { return Median(gradient_ms) + Median(update_ms); }

double CudaBenchRow::floor_ratio() const { return Ratio(Median(step_ms), floor_ms()); }

double CudaBenchRow::copy_gb_per_s() const { return GbPerSecond(static_cast<double>(copied_bytes), Median(copy_ms)); }

double CudaBenchRow::update_of_copy() const {
  return Ratio(GbPerSecond(static_cast<double>(update.bytes), Median(update.kernel_ms)), copy_gb_per_s());
}

std::string CudaBenchHeader() { return TableHeader(Cells({})); }
std::string CudaBenchLine(const CudaBenchRow& row) { return TableLine(Cells(row)); }
std::string CudaBenchJson(const CudaBenchRow& row) { return TableJson(Cells(row)); }

}  // namespace shardstep
