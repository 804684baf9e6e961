#include "shardstep/tools/text_file.h"

#include <cerrno>
#include <fstream>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace shardstep {

absl::Status Refusal(int error, absl::string_view what) {
  return absl::UnknownError(absl::StrCat(what, ": ", std::generic_category().message(error != 0 ? error : EIO)));
}

absl::Status WriteTextFile(const std::string& path, absl::string_view text) {
  errno = 0;
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  return file ? absl::OkStatus() : Refusal(errno, absl::StrCat("writing ", path));
}

}  // namespace shardstep
