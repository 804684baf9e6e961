#ifndef SHARDSTEP_COMM_TCP_FRAME_H_
#define SHARDSTEP_COMM_TCP_FRAME_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "shardstep/comm/status.h"

namespace shardstep {

enum class FrameKind : uint32_t {
  kHello = 1,     ///< first of a rank: `rank`, `value` is its world size, `round` its key
  kWelcome,       ///< first of rank 0: the hello was right
  kRefused,       ///< instead of it: `bytes` says why
  kContribution,  ///< what `rank` brings to meeting `round`: `what`, `bytes`
  kComplete,      ///< of rank 0: meeting `round` has everybody's
  kLeft,          ///< `rank` takes part in no more meetings: `bytes` goes on after "rank r", `value` is the cause
  kFailed,        ///< the same, and ends everybody's meetings
};

/// What ranks say to each other over TCP.
struct Frame {
  FrameKind kind = FrameKind::kHello;
  int rank = 0;
  int value = 0;
  uint64_t round = 0;
  std::string what;
  std::string bytes;
};

/// Of `what` and `bytes` together.
inline constexpr uint64_t kLargestFrameBytes = uint64_t{1} << 30;

/// As it goes over the wire, between processes of one build: the numbers in the machine's byte order.
std::string Encode(const Frame& frame);

/// Cuts a stream of bytes into frames. Holds no more than what has come, however long a frame claims to be.
class FrameReader {
 public:
  /// `largest_bytes`: of a frame's `what` and `bytes` together.
  explicit FrameReader(uint64_t largest_bytes) : largest_bytes_(largest_bytes) {}

  void Append(absl::string_view bytes) { buffer_.append(bytes.data(), bytes.size()); }

  /// The next whole frame; none when more bytes are needed. DataLoss says what of these bytes is no frame.
  absl::StatusOr<absl::optional<Frame>> Next();

 private:
  uint64_t largest_bytes_;
  std::string buffer_;
  size_t begin_byte_ = 0;  // of the next frame in buffer_
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_TCP_FRAME_H_
