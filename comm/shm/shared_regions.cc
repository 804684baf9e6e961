#include "shardstep/comm/shm/shared_regions.h"

#include <utility>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace shardstep {
namespace {

using Regions = std::vector<std::unique_ptr<Region>>;

// Creates what this rank owns and leaves the other places empty. One handle per request in `handles`.
absl::Status CreateOwned(int rank, int peers, RegionProvider& provider, absl::Span<const SharedRegionRequest> requests,
                         Regions* regions, std::vector<std::string>* handles) {
  for (size_t i = 0; i < requests.size(); ++i) {
    if (requests[i].owner != rank) continue;
    SHARDSTEP_ASSIGN_OR_RETURN(std::unique_ptr<OwnedRegion> region,
                               provider.Create(requests[i].size_bytes, requests[i].backing, requests[i].what));
    (*handles)[i] = region->Export(peers);
    (*regions)[i] = std::move(region);
  }
  return absl::OkStatus();
}

absl::Status OpenPeers(const std::vector<std::string>& handles_by_rank, RegionProvider& provider,
                       absl::Span<const SharedRegionRequest> requests, Regions* regions) {
  for (size_t i = 0; i < requests.size(); ++i) {
    if ((*regions)[i] != nullptr) continue;
    const std::vector<std::string> handles =
        absl::StrSplit(handles_by_rank[static_cast<size_t>(requests[i].owner)], '\n');
    SHARDSTEP_ASSIGN_OR_RETURN((*regions)[i], provider.Open(handles[i], requests[i].size_bytes, requests[i].peer_access,
                                                            requests[i].backing, requests[i].what));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Regions> ShareRegions(Rendezvous& rendezvous, RegionProvider& provider,
                                     absl::Span<const SharedRegionRequest> requests, absl::string_view what,
                                     absl::Duration deadline) {
  int64_t total_bytes = 0;
  for (const SharedRegionRequest& request : requests) total_bytes += request.size_bytes;
  SHARDSTEP_RETURN_IF_ERROR(
      AgreeOnStatus(rendezvous, absl::StrCat(what, ": memory"), CheckMemoryAvailable(total_bytes, what), deadline));
  Regions regions(requests.size());
  std::vector<std::string> handles(requests.size());
  const absl::Status created =
      CreateOwned(rendezvous.rank(), rendezvous.world_size() - 1, provider, requests, &regions, &handles);
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(rendezvous, absl::StrCat(what, ": created"), created, deadline));
  SHARDSTEP_ASSIGN_OR_RETURN(
      const std::vector<std::string> handles_by_rank,
      rendezvous.AllGatherBytes(absl::StrCat(what, ": handles"), absl::StrJoin(handles, "\n"), deadline));
  const absl::Status opened = OpenPeers(handles_by_rank, provider, requests, &regions);
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(rendezvous, absl::StrCat(what, ": opened"), opened, deadline));
  return regions;
}

}  // namespace shardstep
