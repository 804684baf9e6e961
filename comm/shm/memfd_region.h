#ifndef SHARDSTEP_COMM_SHM_MEMFD_REGION_H_
#define SHARDSTEP_COMM_SHM_MEMFD_REGION_H_

#include <memory>

#include "shardstep/comm/shm/region.h"

namespace shardstep {

/// Regions for ranks that are processes of one host and one user. A handle names the creating process, its descriptor
/// and the file's identity; peers open /proc/<pid>/fd/<descriptor>. The memory is no file of any mounted file system,
/// so /dev/shm may be small, and its size is sealed, so that no access ends in SIGBUS. Reading a page that nobody has
/// used takes memory too. It is freed when the last process that maps it ends, whatever the way it ends.
std::unique_ptr<RegionProvider> MakeMemfdRegionProvider();

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_SHM_MEMFD_REGION_H_
