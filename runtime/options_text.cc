#include "shardstep/runtime/options_text.h"

#include <google/protobuf/message.h>
#include <google/protobuf/text_format.h>

#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "shardstep/proto/options.pb.h"
#include "shardstep/runtime/text_errors.h"

namespace shardstep {
namespace {

using ::google::protobuf::Message;
using ::google::protobuf::TextFormat;

constexpr int kMaxNesting = 32;

}  // namespace

absl::Status ParseOptionsText(absl::string_view text, absl::string_view file, Message* message) {
  TextErrors errors;
  TextFormat::Parser parser;
  parser.RecordErrorsTo(&errors);
  parser.SetRecursionLimit(kMaxNesting);
  if (parser.ParseFromString(std::string(text), message)) return absl::OkStatus();
  const std::vector<absl::string_view> lines = absl::StrSplit(text, '\n');
  std::vector<std::string> reports;
  for (const TextErrors::Error& error : errors.all()) {
    const bool has_line = error.line >= 0 && error.line < static_cast<int>(lines.size());
    reports.push_back(has_line ? absl::StrCat(file, ":", error.line + 1, ":", error.column + 1, ": ", error.message,
                                              " in \"", absl::StripAsciiWhitespace(lines[error.line]), "\"")
                               : absl::StrCat(file, ": ", error.message));
  }
  if (reports.empty()) reports.push_back(absl::StrCat(file, ": not in text format"));
  return absl::InvalidArgumentError(absl::StrJoin(reports, "\n"));
}

absl::StatusOr<OptimizerOptions> OptionsFromText(absl::string_view text) {
  proto::Optimizer message;
  SHARDSTEP_RETURN_IF_ERROR(ParseOptionsText(text, "options", &message));
  return OptionsFromProto(message);
}

absl::StatusOr<GroupOptions> GroupFromText(absl::string_view text) {
  proto::Optimizer message;
  SHARDSTEP_RETURN_IF_ERROR(ParseOptionsText(text, "group", message.add_group()));
  SHARDSTEP_ASSIGN_OR_RETURN(OptimizerOptions options, OptionsFromProto(message));
  return options.groups[0];
}

}  // namespace shardstep
