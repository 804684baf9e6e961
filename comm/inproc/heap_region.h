#ifndef SHARDSTEP_COMM_INPROC_HEAP_REGION_H_
#define SHARDSTEP_COMM_INPROC_HEAP_REGION_H_

#include <memory>

#include "shardstep/comm/shm/region.h"

namespace shardstep {

/// Regions for ranks that are threads of one process: every rank sees the same addresses, handles are pointers and mean
/// nothing in another process. A handle that not all peers open, because creation failed, keeps its memory for good.
std::unique_ptr<RegionProvider> MakeHeapRegionProvider();

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_INPROC_HEAP_REGION_H_
