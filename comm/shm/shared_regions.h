#ifndef SHARDSTEP_COMM_SHM_SHARED_REGIONS_H_
#define SHARDSTEP_COMM_SHM_SHARED_REGIONS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/comm/rendezvous.h"
#include "shardstep/comm/shm/region.h"

namespace shardstep {

/// A region that rank `owner` creates and every other rank opens.
struct SharedRegionRequest {
  int owner = 0;
  int64_t size_bytes = 0;  ///< >= 1
  PageAccess peer_access = PageAccess::kRead;
  PageBacking backing = PageBacking::kOnCreation;
  std::string what;  ///< for messages, with the owner's rank where there are several
};

/// Collective, with equal `requests` on every rank: the regions in the order of the requests, as this rank maps them.
/// Either every rank gets all of them or every rank gets the same error. That there is memory for the sum is checked
/// before any is touched.
absl::StatusOr<std::vector<std::unique_ptr<Region>>> ShareRegions(Rendezvous& rendezvous, RegionProvider& provider,
                                                                  absl::Span<const SharedRegionRequest> requests,
                                                                  absl::string_view what, absl::Duration deadline);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_SHM_SHARED_REGIONS_H_
