#ifndef SHARDSTEP_COMM_RENDEZVOUS_H_
#define SHARDSTEP_COMM_RENDEZVOUS_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "shardstep/comm/status.h"

namespace shardstep {

/// How ranks exchange small host bytes beside the data path: at creation, for digests, handles and manifests; never
/// inside a step. Implementations: inproc/thread_rendezvous.h, mpi/mpi_rendezvous.h,
/// tcp/tcp_rendezvous.h; of some ranks of another: group_rendezvous.h, tcp/side_rendezvous.h.
///
/// Collective, but for Fail: every rank makes the same calls in the same order. One thread per rank at a time.
class Rendezvous {
 public:
  virtual ~Rendezvous() = default;
  virtual int rank() const = 0;
  virtual int world_size() const = 0;

  /// Every rank's `bytes` (any length, also empty and different), indexed by rank.
  /// DeadlineExceeded names `what` and the ranks that did not arrive within `deadline`; FailedPrecondition names both
  /// ranks when they meet with different `what`. After an error the rendezvous stays failed.
  virtual absl::StatusOr<std::vector<std::string>> AllGatherBytes(absl::string_view what, absl::string_view bytes,
                                                                  absl::Duration deadline) = 0;

  /// Not collective. Ends every present and future AllGatherBytes of all ranks with Aborted naming this rank and
  /// `reason` ("rank 2 failed: ..."), whose CauseOf is that of `reason`: at once, not by their deadlines, whatever
  /// meeting they are in. Does not wait. Idempotent: a rank that has failed already, or knows that another has, keeps
  /// the error it has; when ranks fail at the same moment, others may get the reason of either. Thread rule of
  /// AllGatherBytes: never while another thread of this rank is in it.
  virtual void Fail(const absl::Status& reason) = 0;

  /// Those who meet whenever these ranks meet: of a group (group_rendezvous.h) all ranks of its parent. They have to
  /// agree on success and failure together, or some would meet in vain.
  virtual Rendezvous& everyone() { return *this; }

  /// What messages call a rank: its number here, or in the larger job that these ranks are some of.
  virtual int rank_name(int rank) const { return rank; }
};

/// Collective. OK on every rank only when every rank passed OK; otherwise each rank gets the error of the lowest
/// failing rank, with its code and cause, which it names ("rank 2: ..."). What a collective operation ends with when a
/// rank may fail alone. Every rank: of rendezvous.everyone().
absl::Status AgreeOnStatus(Rendezvous& rendezvous, absl::string_view what, const absl::Status& mine,
                           absl::Duration deadline);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_RENDEZVOUS_H_
