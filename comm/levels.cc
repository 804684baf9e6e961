#include "shardstep/comm/levels.h"

#include <algorithm>
#include <map>
#include <string>

namespace shardstep {
namespace {

HostMap EveryRankAHost(int rank, int world_size) {
  HostMap map;
  for (int r = 0; r < world_size; ++r) map.hosts.push_back({r});
  map.host = rank;
  return map;
}

bool AllEquallyLong(const std::vector<std::vector<int>>& hosts) {
  return std::all_of(hosts.begin(), hosts.end(), [&](const auto& host) { return host.size() == hosts[0].size(); });
}

}  // namespace

std::vector<int> HostMap::Rail() const {
  std::vector<int> rail;
  for (const std::vector<int>& members : hosts) rail.push_back(members[static_cast<size_t>(local_rank)]);
  return rail;
}

std::vector<int> HostMap::RanksByPosition() const {
  std::vector<int> ranks;
  for (int rail = 0; rail < (hosts.empty() ? 0 : ranks_per_host()); ++rail) {
    for (const std::vector<int>& members : hosts) ranks.push_back(members[static_cast<size_t>(rail)]);
  }
  return ranks;
}

absl::StatusOr<HostMap> MapHosts(Rendezvous& rendezvous, absl::string_view host_id, absl::Duration deadline) {
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> ids,
                             rendezvous.AllGatherBytes("MapHosts: host_id", host_id, deadline));
  HostMap map;
  std::map<std::string, int> numbers;
  for (int rank = 0; rank < rendezvous.world_size(); ++rank) {
    const auto [known, is_new] = numbers.emplace(ids[static_cast<size_t>(rank)], static_cast<int>(map.hosts.size()));
    if (is_new) map.hosts.emplace_back();
    std::vector<int>& members = map.hosts[static_cast<size_t>(known->second)];
    if (rank == rendezvous.rank()) {
      map.host = known->second;
      map.local_rank = static_cast<int>(members.size());
    }
    members.push_back(rank);
  }
  return AllEquallyLong(map.hosts) ? map : EveryRankAHost(rendezvous.rank(), rendezvous.world_size());
}

absl::StatusOr<std::vector<int>> CountRanksOfHosts(Rendezvous& rendezvous, absl::string_view host_id,
                                                   absl::Duration deadline) {
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> ids,
                             rendezvous.AllGatherBytes("hosts of all ranks", host_id, deadline));
  std::vector<int> counts;
  for (const std::string& id : ids) counts.push_back(static_cast<int>(std::count(ids.begin(), ids.end(), id)));
  return counts;
}

}  // namespace shardstep
