#ifndef SHARDSTEP_RUNTIME_OPTIONS_TEXT_H_
#define SHARDSTEP_RUNTIME_OPTIONS_TEXT_H_

#include "absl/strings/string_view.h"
#include "shardstep/comm/status.h"
#include "shardstep/runtime/options.h"

namespace google::protobuf {
class Message;
}  // namespace google::protobuf

namespace shardstep {

/// Replaces `message` by `text` in protobuf's text format. InvalidArgument has one line per error, which names `file`,
/// line, column and the text of the line: a field that is unknown, given twice, or whose value has another type. What
/// values mean is not looked at. Prints nothing.
absl::Status ParseOptionsText(absl::string_view text, absl::string_view file, google::protobuf::Message* message);

/// Validated options from the text of a message Optimizer of proto/options.proto, or Group; "": the defaults. Errors as
/// of ParseOptionsText, where the file is "options" or "group", and of OptionsFromProto.
absl::StatusOr<OptimizerOptions> OptionsFromText(absl::string_view text);
absl::StatusOr<GroupOptions> GroupFromText(absl::string_view text);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_OPTIONS_TEXT_H_
