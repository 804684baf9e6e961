#ifndef SHARDSTEP_COMM_LEVELS_H_
#define SHARDSTEP_COMM_LEVELS_H_

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/rendezvous.h"

namespace shardstep {

/// The ranks of a job as hosts: which rank is on which, all hosts with equally many ranks.
///
/// A bucket's shards are laid out rail by rail, where rail l joins the l-th rank of every host: the shard of rank
/// hosts[h][l] is the bucket's number l * hosts.size() + h. So what one level calls a shard is consecutive shards to
/// the next: within a host, ranks exchange rails; between hosts, the ranks of one rail exchange their shards of it.
struct HostMap {
  std::vector<std::vector<int>> hosts;  ///< ranks, ascending within a host; hosts by their lowest rank
  int host = 0;                         ///< of this rank
  int local_rank = 0;                   ///< its place in hosts[host]

  int host_count() const { return static_cast<int>(hosts.size()); }
  int ranks_per_host() const { return hosts.empty() ? 1 : static_cast<int>(hosts[0].size()); }
  /// The ranks of this rank's rail, in the order of hosts.
  std::vector<int> Rail() const;
  /// The ranks by the position of their shards in a bucket.
  std::vector<int> RanksByPosition() const;
};

/// Collective. The hosts of a job whose ranks share memory when they pass the same `host_id`, in whatever order ranks
/// were placed. When hosts have different numbers of ranks there are no rails: every rank then is a host of its own, as
/// when no two share one, which is one level among all ranks.
absl::StatusOr<HostMap> MapHosts(Rendezvous& rendezvous, absl::string_view host_id, absl::Duration deadline);

/// Collective. By rank: how many ranks are on its host, also where hosts have different numbers of them. `host_id` as
/// for MapHosts.
absl::StatusOr<std::vector<int>> CountRanksOfHosts(Rendezvous& rendezvous, absl::string_view host_id,
                                                   absl::Duration deadline);

/// How the ranks of one job reach each other: one communicator among all ranks, or two levels.
struct CommunicatorLevels {
  CommunicatorLevels() = default;
  /// One level.
  CommunicatorLevels(std::unique_ptr<Communicator> all_ranks) : host(std::move(all_ranks)) {}  // NOLINT: a conversion
  CommunicatorLevels(CommunicatorLevels&&) = default;
  /// What is replaced goes in the order of destruction: communicators before what they meet over.
  CommunicatorLevels& operator=(CommunicatorLevels&& other) noexcept {
    network = std::move(other.network);
    host = std::move(other.host);
    rendezvous = std::move(other.rendezvous);
    map = std::move(other.map);
    host_ranks = other.host_ranks;
    return *this;
  }

  /// What the communicators meet over, where nobody else owns it.
  std::vector<std::unique_ptr<Rendezvous>> rendezvous;
  /// Among the ranks of this host; with one level among all ranks of the job.
  std::unique_ptr<Communicator> host;
  /// Among the ranks of this rank's rail, in the order of hosts; nullptr with one level.
  std::unique_ptr<Communicator> network;
  /// With two levels; empty with one.
  HostMap map;
  /// How many ranks of the job share this host's memory and cores; 0: all.
  int host_ranks = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_LEVELS_H_
