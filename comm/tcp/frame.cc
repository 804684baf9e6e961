#include "shardstep/comm/tcp/frame.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace shardstep {
namespace {

constexpr uint32_t kMagic = 0x76725353;  // "SSrv"

struct Header {
  uint32_t magic = kMagic;
  uint32_t kind = 0;
  int32_t rank = 0;
  int32_t value = 0;
  uint64_t round = 0;
  uint64_t what_bytes = 0;
  uint64_t payload_bytes = 0;  // what and bytes
};
static_assert(sizeof(Header) == 40);

}  // namespace

std::string Encode(const Frame& frame) {
  Header header;
  header.kind = static_cast<uint32_t>(frame.kind);
  header.rank = frame.rank;
  header.value = frame.value;
  header.round = frame.round;
  header.what_bytes = frame.what.size();
  header.payload_bytes = frame.what.size() + frame.bytes.size();
  std::string wire;
  wire.reserve(sizeof(Header) + header.payload_bytes);
  wire.append(reinterpret_cast<const char*>(&header), sizeof(Header));
  wire.append(frame.what);
  wire.append(frame.bytes);
  return wire;
}

absl::StatusOr<absl::optional<Frame>> FrameReader::Next() {
  const absl::string_view rest = absl::string_view(buffer_).substr(begin_byte_);
  // Before a whole header has come, too: a stranger may send four bytes and wait.
  const size_t magic_bytes = std::min(rest.size(), sizeof(kMagic));
  if (std::memcmp(rest.data(), &kMagic, magic_bytes) != 0) return absl::DataLossError("these bytes are no frame");
  if (rest.size() < sizeof(Header)) return absl::optional<Frame>();
  Header header;
  std::memcpy(&header, rest.data(), sizeof(Header));
  if (header.kind < static_cast<uint32_t>(FrameKind::kHello) ||
      header.kind > static_cast<uint32_t>(FrameKind::kFailed)) {
    return absl::DataLossError(absl::StrCat("a frame of unknown kind ", header.kind));
  }
  if (header.payload_bytes > largest_bytes_ || header.what_bytes > header.payload_bytes) {
    return absl::DataLossError(
        absl::StrCat("a frame of ", header.payload_bytes, " bytes (", header.what_bytes, " of its name)"));
  }
  if (rest.size() - sizeof(Header) < header.payload_bytes) return absl::optional<Frame>();

  const absl::string_view payload = rest.substr(sizeof(Header), header.payload_bytes);
  Frame frame{.kind = static_cast<FrameKind>(header.kind),
              .rank = header.rank,
              .value = header.value,
              .round = header.round,
              .what = std::string(payload.substr(0, header.what_bytes)),
              .bytes = std::string(payload.substr(header.what_bytes))};
  begin_byte_ += sizeof(Header) + header.payload_bytes;
  if (begin_byte_ >= buffer_.size() / 2) {  // so that each byte is moved once or less
    buffer_ = buffer_.substr(begin_byte_);
    begin_byte_ = 0;
  }
  return absl::optional<Frame>(std::move(frame));
}

}  // namespace shardstep
