#ifndef SHARDSTEP_COMM_MPI_LINKED_HOST_H_
#define SHARDSTEP_COMM_MPI_LINKED_HOST_H_

#include <memory>

#include "absl/time/time.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/mutex.h"

namespace shardstep {

/// The communicator within a host as the level between hosts sees it. It lives as long as either level does.
class HostLink {
 public:
  explicit HostLink(std::unique_ptr<Communicator> host) : host_(std::move(host)) {}

  Communicator& host() { return *host_; }
  /// Within the host this rank counts as away while it is, or any rank of another host is: who waits here may wait for
  /// a rank that waits there. All threads.
  void SetOwnAway(absl::Duration duration) { SetAway(duration, &own_until_ns_); }
  void SetOthersAway(absl::Duration duration) { SetAway(duration, &others_until_ns_); }

 private:
  void SetAway(absl::Duration duration, int64_t* until_ns);

  const std::unique_ptr<Communicator> host_;
  Mutex mutex_;
  int64_t own_until_ns_ = 0;     ///< guarded by mutex_
  int64_t others_until_ns_ = 0;  ///< guarded by mutex_
};

/// link->host(), but that its SetAway is the link's SetOwnAway.
std::unique_ptr<Communicator> MakeLinkedHost(std::shared_ptr<HostLink> link);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_MPI_LINKED_HOST_H_
