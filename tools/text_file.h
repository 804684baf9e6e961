#ifndef SHARDSTEP_TOOLS_TEXT_FILE_H_
#define SHARDSTEP_TOOLS_TEXT_FILE_H_

#include <string>

#include "absl/strings/string_view.h"
#include "shardstep/comm/status.h"

namespace shardstep {

/// Creates or replaces `path`. The operating system's refusal, of whatever kind, is meant for ExitCode::kIo and names
/// the file.
absl::Status WriteTextFile(const std::string& path, absl::string_view text);

/// That refusal; `error` as in errno, 0: unknown.
absl::Status Refusal(int error, absl::string_view what);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_TEXT_FILE_H_
