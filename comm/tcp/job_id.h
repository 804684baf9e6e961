#ifndef SHARDSTEP_COMM_TCP_JOB_ID_H_
#define SHARDSTEP_COMM_TCP_JOB_ID_H_

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "shardstep/comm/rendezvous.h"

namespace shardstep {

/// For ranks that can tell each other a few bytes by means of their own (a broadcast, a key-value store), as
/// ncclGetUniqueId: rank 0 creates the id, tells it to all, and all meet by it.
///
/// Rank 0 listens from now on, at a port that the system chooses; what it listens with belongs to this process until
/// MeetByJobId takes it, or for ever. `host_address`: where ranks of other hosts reach this one, a name or an address
/// without a port; empty: its name. The id is printable, without spaces, below 300 bytes, and secret: it lets in.
/// InvalidArgument, Unavailable: as for CreateTcpRendezvous.
absl::StatusOr<std::string> CreateJobId(const std::string& host_address);

/// Collective. The rendezvous of the ranks that were told `id`, each of them once; as CreateTcpRendezvous.
/// InvalidArgument: no such id; FailedPrecondition: rank 0 has not created it in this process, or meets a second time.
absl::StatusOr<std::unique_ptr<Rendezvous>> MeetByJobId(const std::string& id, int rank, int world_size,
                                                        absl::Duration deadline);

/// Whether `text` is made like an id.
bool IsJobId(absl::string_view text);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_TCP_JOB_ID_H_
