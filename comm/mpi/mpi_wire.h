#ifndef SHARDSTEP_COMM_MPI_MPI_WIRE_H_
#define SHARDSTEP_COMM_MPI_MPI_WIRE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "shardstep/comm/communicator.h"

/// What goes over the wire, as numbers: tags, cuts, and the layout of small messages. Knows no MPI.

namespace shardstep {

/// The tags of one communicator: a block of kTagsPerCommunicator, starting at `first`.
///
/// Why messages meet the right receives: between two ranks MPI keeps the order of messages of one tag, and on either
/// side one thread makes all sends and receives. So per tag both sides must only list the same messages in the same
/// order. Data of one purpose, bucket (mod 64) and number (mod 4) have a tag of their own; within a tag the exchanges
/// of one bucket go up in number, and buckets that share a tag are issued in the same order on every rank, as the
/// communicator's contract demands; contributions and cuts follow each other in an order that both sides compute from
/// the same numbers. Ranks that disagree meet with a wrong length or wait for a message of another tag: an error.
inline constexpr int kTagsPerCommunicator = 1024;
struct MessageTags {
  int first = 0;

  int small() const { return first; }
  int exchange(int bucket, int64_t micro_step) const { return first + 256 + Class(bucket, micro_step); }
  int publish(int bucket, int64_t step) const { return first + 512 + Class(bucket, step); }

 private:
  static int Class(int bucket, int64_t number) { return bucket % 64 * 4 + static_cast<int>(number % 4); }
};

/// One message between this rank and another one.
struct Message {
  enum Direction { kSend, kReceive };

  Direction direction = kSend;
  int member = 0;  ///< the other rank, of the communicator
  int tag = 0;
  std::byte* data = nullptr;  ///< of a send: only read
  int bytes = 0;
};

/// The longest message for an option of `max_message_bytes`: fits MPI's int, and keeps cuts aligned to 64 bytes.
int64_t LongestMessageBytes(int64_t max_message_bytes);

/// Appends `like` once per piece of [data, data + size_bytes), each of at most `longest_bytes`. Nothing for no bytes.
void AppendMessages(const Message& like, std::byte* data, int64_t size_bytes, int64_t longest_bytes,
                    std::vector<Message>* messages);

/// A message beside the data: plain bytes between processes of one build, short enough for MPI to send at once.
struct SmallMessage {
  enum Kind : int32_t {
    kAbort,      ///< text: why, code and cause of the status
    kAway,       ///< number: for how many nanoseconds
    kArrived,    ///< to the first member: its contribution to the small all-reduce `number`
    kReduced,    ///< from the first member: the result of `number`
    kSomeAbsent  ///< from the first member: `number` has no result; text: who did not arrive
  };

  Kind kind = kAbort;
  int32_t code = 0;   ///< absl::StatusCode
  int32_t cause = 0;  ///< absl::StatusCode
  int64_t number = 0;
  union {
    char text[sizeof(SmallReduction)];  // NUL-terminated
    SmallReduction reduction;
  };

  SmallMessage() : text{} {}
  SmallMessage(Kind of_kind, int64_t of_number) : kind(of_kind), number(of_number), text{} {}
  /// Cut when it is too long.
  void set_text(absl::string_view value);
};
static_assert(std::is_trivially_copyable_v<SmallMessage>);

/// `status`, with its message cut to what a small message holds, and back.
SmallMessage AbortMessage(const absl::Status& status);
absl::Status StatusOf(const SmallMessage& abort);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_MPI_MPI_WIRE_H_
