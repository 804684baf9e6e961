#include "shardstep/comm/staged/staged_levels.h"

#include <memory>
#include <utility>

#include "shardstep/comm/group_rendezvous.h"

namespace shardstep {
namespace {

// Groups of `job` are made of these maps.
absl::Status CheckInner(const Rendezvous& job, const CommunicatorLevels& inner) {
  if (inner.host == nullptr) return absl::InvalidArgumentError("inner: has no communicator");
  if (inner.network == nullptr) return absl::OkStatus();
  const HostMap& map = inner.map;
  const bool ranks_fit = map.host_count() * map.ranks_per_host() == job.world_size();
  if (ranks_fit && map.host < map.host_count() && map.local_rank < map.ranks_per_host() &&
      map.hosts[static_cast<size_t>(map.host)][static_cast<size_t>(map.local_rank)] == job.rank()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("inner: rank ", map.local_rank, " of host ", map.host, " of ",
                                                 map.host_count(), " with ", map.ranks_per_host(),
                                                 " ranks each is not rank ", job.rank(), " of ", job.world_size()));
}

}  // namespace

absl::StatusOr<CommunicatorLevels> StageLevels(const CudaDeviceRef& device, Memory& memory, Rendezvous& job,
                                               CommunicatorLevels inner, const StagedOptions& options) {
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(job, "StageLevels", CheckInner(job, inner), options.setup_deadline));
  CommunicatorLevels levels;
  levels.map = inner.map;
  levels.host_ranks = inner.host_ranks;
  if (inner.network == nullptr) {
    SHARDSTEP_ASSIGN_OR_RETURN(levels.host,
                               CreateStagedCommunicator(device, memory, job, std::move(inner.host), options));
    levels.rendezvous = std::move(inner.rendezvous);
    return levels;
  }
  const HostMap& map = levels.map;
  levels.rendezvous.push_back(std::make_unique<GroupRendezvous>(job, map.hosts[static_cast<size_t>(map.host)]));
  SHARDSTEP_ASSIGN_OR_RETURN(
      levels.host, CreateStagedCommunicator(device, memory, *levels.rendezvous.back(), std::move(inner.host), options));
  levels.rendezvous.push_back(std::make_unique<GroupRendezvous>(job, map.Rail()));
  SHARDSTEP_ASSIGN_OR_RETURN(levels.network, CreateStagedCommunicator(device, memory, *levels.rendezvous.back(),
                                                                      std::move(inner.network), options));
  // Not before: on an error it is needed until the last of inner is gone.
  for (std::unique_ptr<Rendezvous>& rendezvous : inner.rendezvous) levels.rendezvous.push_back(std::move(rendezvous));
  return levels;
}

}  // namespace shardstep
