#ifndef SHARDSTEP_COMM_NCCL_HEARTBEAT_H_
#define SHARDSTEP_COMM_NCCL_HEARTBEAT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "shardstep/comm/status.h"

/// What the watching threads of all ranks tell each other when they meet, and what follows from it. Pure functions:
/// every rank has the same words before it, and concludes the same.

namespace shardstep {

/// The state of one rank. Operations are numbered in the order of their issue, which is the same on every rank.
struct Heartbeat {
  int64_t arrived = 0;   ///< operations that its stream has come to
  int64_t finished = 0;  ///< and those that it has passed
  /// The operation that it waits in for longer than its deadline, by number and name; -1: none.
  int64_t expired = -1;
  std::string expired_name;
  /// For how long it is away from now on; zero: it is not.
  absl::Duration away;
  /// The same of ranks of another level (NcclOptions::other_away), which it has heard of there.
  absl::Duration other_away;
  bool leaves = false;            ///< its communicator is being destroyed: it meets nobody any more
  bool wants_rendezvous = false;  ///< it is in a collective call, and meets nobody until all are
  absl::Status failure;           ///< why it is dead, in words that are for other ranks
};

std::string Encode(const Heartbeat& heartbeat);
/// Internal: not a heartbeat.
absl::StatusOr<Heartbeat> DecodeHeartbeat(absl::string_view bytes);

/// A rank that has left.
struct Departure {
  int rank = -1;         ///< -1: nobody has
  int64_t finished = 0;  ///< its operations from this one on will never be whole
};

struct Verdict {
  absl::Status failure;
  absl::Duration away;        ///< of the rank that is away longest
  absl::Duration other_away;  ///< of another level's
  Departure departure;        ///< of the one that has finished least
  bool all_want_rendezvous = false;
};

/// `states` by rank; `deadline` is for the text. The failure: of the lowest rank that has one; else DeadlineExceeded of
/// the first operation that has expired, naming the ranks that did not come to it. Messages call rank r `names`[r], or
/// r when that is empty.
Verdict Judge(absl::Span<const Heartbeat> states, absl::Duration deadline, absl::Span<const int> names);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_NCCL_HEARTBEAT_H_
