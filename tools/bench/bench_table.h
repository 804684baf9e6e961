#ifndef SHARDSTEP_TOOLS_BENCH_BENCH_TABLE_H_
#define SHARDSTEP_TOOLS_BENCH_BENCH_TABLE_H_

#include <string>
#include <vector>

namespace shardstep {

/// One value of a row: a column of text, and a key of a JSON object.
struct TableCell {
  const char* column;
  int width;
  std::string value;
  bool is_text;
};

/// What a value that is missing is written as; in JSON null. A cell of it is text.
inline constexpr const char* kMissingCell = "-";

/// Missing when it is not finite: it was divided by something that was not measured.
TableCell NumberCell(const char* column, int width, double value, int digits);

std::string TableHeader(const std::vector<TableCell>& cells);
std::string TableLine(const std::vector<TableCell>& cells);
/// Texts must need no escapes.
std::string TableJson(const std::vector<TableCell>& cells);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_BENCH_TABLE_H_
