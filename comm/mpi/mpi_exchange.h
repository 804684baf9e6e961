#ifndef SHARDSTEP_COMM_MPI_MPI_EXCHANGE_H_
#define SHARDSTEP_COMM_MPI_MPI_EXCHANGE_H_

/// For the sources of comm/mpi/ only: this header names MPI's types.

#include <mpi.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "shardstep/comm/status.h"

namespace shardstep {

/// `code` of an MPI call as a Status: OK, or Internal naming the call and MPI's own words.
absl::Status MpiStatus(int code, absl::string_view call);

/// Sleeps a little, longer the more often it was called: what a polling loop does between two looks.
class PollingPause {
 public:
  void Sleep();

 private:
  int rounds_ = 0;
};

/// One all-gather over a communicator whose errors are returned. An object serves one round; every rank makes one with
/// the same `round`, and a later round has a larger number. Uses `message_tag` and the next one.
class MpiExchange {
 public:
  MpiExchange(MPI_Comm comm, int message_tag, uint64_t round);
  /// Abandons what is not finished: MPI may go on using the memory, which then is never freed.
  ~MpiExchange();
  MpiExchange(const MpiExchange&) = delete;
  MpiExchange& operator=(const MpiExchange&) = delete;

  /// Every rank's bytes, by rank. Errors as in Rendezvous::AllGatherBytes. Aborted names a peer that has failed and
  /// its reason.
  absl::StatusOr<std::vector<std::string>> Gather(absl::string_view what, absl::string_view bytes,
                                                  absl::Duration deadline);
  /// Gather ended because a peer announced a failure with kEverything, which all have been told of.
  bool heard_failure() const { return heard_failure_; }

  /// Whom a failure of this rank ends. kRounds: a peer that waits for this rank in a later round, so that all who are
  /// in the same round end it alike. kEverything: every peer's present round too.
  enum class Reach { kRounds, kEverything };

  /// Tells every peer that this rank takes part in nothing any more. Does not wait.
  static void AnnounceFailure(MPI_Comm comm, int message_tag, Reach reach, const absl::Status& failure);
  /// OK, or Aborted from a peer that announced a failure with kEverything; tells of each one once. Does not wait.
  static absl::Status HearFailure(MPI_Comm comm, int message_tag);

 private:
  struct Peer;

  absl::Status Start(absl::string_view what, absl::string_view bytes);
  absl::Status SendTo(int rank, const std::string& payload, Peer& peer);
  absl::Status ReceivePayload(int rank, Peer& peer);
  /// Moves `peer` on as far as its messages allow.
  absl::Status Progress(int rank, Peer& peer);
  absl::StatusOr<std::vector<std::string>> Finish(absl::string_view what, absl::string_view bytes);

  const MPI_Comm comm_;
  const int message_tag_;
  const uint64_t round_;
  int rank_ = 0;
  bool heard_failure_ = false;
  std::unique_ptr<std::string> payload_;      ///< what every peer is sent: the tag's length is in the header
  std::vector<std::unique_ptr<Peer>> peers_;  ///< by rank; null for this one
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_MPI_MPI_EXCHANGE_H_
