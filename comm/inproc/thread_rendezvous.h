#ifndef SHARDSTEP_COMM_INPROC_THREAD_RENDEZVOUS_H_
#define SHARDSTEP_COMM_INPROC_THREAD_RENDEZVOUS_H_

#include <memory>

#include "shardstep/comm/rendezvous.h"

namespace shardstep {

/// The meeting place of ranks that are threads of one process.
///
///   ThreadRendezvousGroup group(4);
///   thread r: std::unique_ptr<Rendezvous> rendezvous = group.Join(r);
class ThreadRendezvousGroup {
 public:
  /// world_size >= 1.
  explicit ThreadRendezvousGroup(int world_size);
  ~ThreadRendezvousGroup();

  /// The handle of `rank`, 0 <= rank < world_size: one per rank, from any thread. Handles may outlive the group. One
  /// rank's error fails all of them for good.
  std::unique_ptr<Rendezvous> Join(int rank);

 private:
  class State;
  std::shared_ptr<State> state_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_INPROC_THREAD_RENDEZVOUS_H_
