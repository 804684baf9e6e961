#include <memory>
#include <numeric>
#include <utility>

#include "shardstep/comm/group_rendezvous.h"
#include "shardstep/comm/mpi/linked_host.h"
#include "shardstep/comm/mpi/mpi_communicator.h"
#include "shardstep/comm/shm/host_id.h"
#include "shardstep/comm/shm/shared_memory_communicator.h"

namespace shardstep {
namespace {

constexpr absl::Duration kSetupDeadline = absl::Minutes(10);

std::vector<int> Iota(int count) {
  std::vector<int> numbers(static_cast<size_t>(count));
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

absl::StatusOr<CommunicatorLevels> CreateTwoLevels(MpiRendezvous& rendezvous, const ClusterOptions& options,
                                                   const std::string& host_id, HostMap map) {
  const std::vector<int>& local = map.hosts[static_cast<size_t>(map.host)];
  CommunicatorLevels levels;
  levels.rendezvous.push_back(std::make_unique<GroupRendezvous>(rendezvous, local));
  SHARDSTEP_ASSIGN_OR_RETURN(std::unique_ptr<Communicator> host,
                             CreateShmCommunicator(*levels.rendezvous.back(), {.wait_deadline = options.wait_deadline,
                                                                               .setup_deadline = kSetupDeadline,
                                                                               .host_id = host_id,
                                                                               .rank_names = local}));
  const auto link = std::make_shared<HostLink>(std::move(host));
  SHARDSTEP_ASSIGN_OR_RETURN(
      levels.network,
      CreateMpiCommunicator(rendezvous, map.Rail(),
                            {.wait_deadline = options.wait_deadline,
                             .setup_deadline = kSetupDeadline,
                             .max_message_bytes = options.max_message_bytes,
                             .other_failure = [link] { return link->host().AsyncStatus(); },
                             .on_failure = [link](const absl::Status& failure) { link->host().Abort(failure); },
                             .on_others_away = [link](absl::Duration duration) { link->SetOthersAway(duration); }}));
  levels.host = MakeLinkedHost(link);
  levels.host_ranks = map.ranks_per_host();
  levels.map = std::move(map);
  return levels;
}

}  // namespace

absl::StatusOr<CommunicatorLevels> CreateClusterCommunicators(MpiRendezvous& rendezvous,
                                                              const ClusterOptions& options) {
  const std::string host_id = options.host_id.empty() ? DefaultHostId() : options.host_id;
  SHARDSTEP_ASSIGN_OR_RETURN(HostMap map, MapHosts(rendezvous, host_id, kSetupDeadline));
  if (map.host_count() == 1) {
    SHARDSTEP_ASSIGN_OR_RETURN(std::unique_ptr<Communicator> host,
                               CreateShmCommunicator(rendezvous, {.wait_deadline = options.wait_deadline,
                                                                  .setup_deadline = kSetupDeadline,
                                                                  .host_id = host_id}));
    return CommunicatorLevels(std::move(host));
  }
  if (map.ranks_per_host() > 1 && !options.private_weights) {
    return CreateTwoLevels(rendezvous, options, host_id, std::move(map));
  }
  SHARDSTEP_ASSIGN_OR_RETURN(std::unique_ptr<Communicator> all,
                             CreateMpiCommunicator(rendezvous, Iota(rendezvous.world_size()),
                                                   {.wait_deadline = options.wait_deadline,
                                                    .setup_deadline = kSetupDeadline,
                                                    .max_message_bytes = options.max_message_bytes}));
  CommunicatorLevels levels(std::move(all));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<int> counts, CountRanksOfHosts(rendezvous, host_id, kSetupDeadline));
  levels.host_ranks = counts[static_cast<size_t>(rendezvous.rank())];
  return levels;
}

}  // namespace shardstep
