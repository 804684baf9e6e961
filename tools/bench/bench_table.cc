#include "shardstep/tools/bench/bench_table.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace shardstep {

TableCell NumberCell(const char* column, int width, double value, int digits) {
  if (!std::isfinite(value)) return {column, width, kMissingCell, true};
  return {column, width, absl::StrFormat("%.*f", digits, value), false};
}

std::string TableHeader(const std::vector<TableCell>& cells) {
  std::string line;
  for (const TableCell& cell : cells) absl::StrAppend(&line, absl::StrFormat(" %*s", cell.width, cell.column));
  return line;
}

std::string TableLine(const std::vector<TableCell>& cells) {
  std::string line;
  for (const TableCell& cell : cells) absl::StrAppend(&line, absl::StrFormat(" %*s", cell.width, cell.value));
  return line;
}

std::string TableJson(const std::vector<TableCell>& cells) {
  std::vector<std::string> fields;
  for (const TableCell& cell : cells) {
    const std::string text = cell.value == kMissingCell ? "null" : absl::StrCat("\"", cell.value, "\"");
    fields.push_back(absl::StrCat("\"", cell.column, "\":", cell.is_text ? text : cell.value));
  }
  return absl::StrCat("{", absl::StrJoin(fields, ","), "}");
}

}  // namespace shardstep
