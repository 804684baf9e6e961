#ifndef SHARDSTEP_TESTS_COMM_LANDING_COMMUNICATOR_H_
#define SHARDSTEP_TESTS_COMM_LANDING_COMMUNICATOR_H_

#include <functional>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/rendezvous.h"

namespace shardstep {

struct LandingOptions {
  /// Of every wait on other ranks.
  absl::Duration wait_deadline = absl::Seconds(60);
  /// What messages call the ranks; empty: 0, 1, ...
  std::vector<int> rank_names;
  /// The failure of another level of the same job, polled from a thread of the communicator: it ends this one.
  std::function<absl::Status()> other_failure;
  /// Called once, from that thread, when this communicator fails or hears of an abort.
  std::function<void(const absl::Status&)> on_failure;
};

/// Collective. A network for tests whose ranks are threads of one process: slices land in a ring of two slots, weights
/// are every rank's own or given, contributions are taken. Abort and SetAway reach all ranks of
/// `rendezvous.everyone()`, as between the rails of a job.
///
/// Made to catch mistakes, not to be fast. Exchange copies, when its turn on the stream comes, into the slot of every
/// owner, and waits until those are released; a slot is 0xff before anything lands in it and from its Release on, so
/// that whoever reads early or late reads NaN; Publish copies into the weights of every rank. Ranks that issue
/// exchanges in different orders, Release what has not arrived, or await what they have not exchanged get
/// FailedPrecondition. `rendezvous` must outlive the communicator.
absl::StatusOr<std::unique_ptr<Communicator>> CreateLandingCommunicator(Rendezvous& rendezvous,
                                                                        const LandingOptions& options);

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_COMM_LANDING_COMMUNICATOR_H_
