#ifndef SHARDSTEP_TOOLS_OPTIONS_FILE_H_
#define SHARDSTEP_TOOLS_OPTIONS_FILE_H_

#include <string>

#include "absl/strings/string_view.h"
#include "shardstep/comm/status.h"

namespace google::protobuf {
class Message;
}  // namespace google::protobuf

namespace shardstep {

/// ParseOptionsText (runtime/options_text.h) of the text of `file`, of at most 1 MiB. NotFound, PermissionDenied or
/// Unknown name the file.
absl::Status ReadOptionsFile(const std::string& file, google::protobuf::Message* message);

/// Sets one field: `path` as in "optimizer.group[0].master" or "model.layers", `value` as in the text format, strings
/// also without quotes. An index one past the end appends. A path that ends in the name of a oneof takes the name of
/// one of its fields, which then stands alone, with its defaults unless it stood there before. A path may not lead
/// through a field of a oneof of which another one stands. InvalidArgument begins with `path` and leaves `message`
/// possibly with an empty group appended: do not use it then.
absl::Status SetOption(absl::string_view path, absl::string_view value, google::protobuf::Message* message);

/// `path` with the names of oneofs, but for one at its end, replaced by the field that stands, or else by their first:
/// "group[0].rule.beta1" becomes "group[0].adamw.beta1". What leads nowhere stays as it is.
std::string ResolveOneofs(absl::string_view path, const google::protobuf::Message& message);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_OPTIONS_FILE_H_
