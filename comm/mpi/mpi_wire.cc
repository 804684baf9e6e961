#include "shardstep/comm/mpi/mpi_wire.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace shardstep {

int64_t LongestMessageBytes(int64_t max_message_bytes) {
  constexpr int64_t kAlignmentBytes = 64;
  const int64_t limit = std::min<int64_t>(max_message_bytes, std::numeric_limits<int>::max());
  return limit / kAlignmentBytes * kAlignmentBytes;
}

void AppendMessages(const Message& like, std::byte* data, int64_t size_bytes, int64_t longest_bytes,
                    std::vector<Message>* messages) {
  for (int64_t begin = 0; begin < size_bytes; begin += longest_bytes) {
    messages->push_back(like);
    messages->back().data = data + begin;
    messages->back().bytes = static_cast<int>(std::min(longest_bytes, size_bytes - begin));
  }
}

void SmallMessage::set_text(absl::string_view value) {
  const size_t length = std::min(value.size(), sizeof(text) - 1);
  std::memcpy(text, value.data(), length);
  std::memset(text + length, 0, sizeof(text) - length);
}

SmallMessage AbortMessage(const absl::Status& status) {
  SmallMessage message(SmallMessage::kAbort, 0);
  message.code = static_cast<int32_t>(status.code());
  message.cause = static_cast<int32_t>(CauseOf(status));
  message.set_text(absl::string_view(status.message().data(), status.message().size()));
  return message;
}

absl::Status StatusOf(const SmallMessage& abort) {
  return WithCause(absl::Status(static_cast<absl::StatusCode>(abort.code), abort.text),
                   static_cast<absl::StatusCode>(abort.cause));
}

}  // namespace shardstep
