#ifndef SHARDSTEP_COMM_STAGED_STAGED_ARENAS_H_
#define SHARDSTEP_COMM_STAGED_STAGED_ARENAS_H_

#include "shardstep/comm/buffer.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/comm/memory.h"
#include "shardstep/comm/shm/arena_extents.h"
#include "shardstep/comm/staged/staged_layout.h"

namespace shardstep {

/// Contributions leave while those of the exchange before are on their way.
inline constexpr int kStagingSlots = 2;

/// The memory of a staged communicator, beside what its inner one has.
struct StagedArenas {
  Buffer gradients;
  Buffer own_weights;  ///< empty when they were given
  BufferView weights;
  Buffer landing;
  Buffer staging;
  Buffer pinned_gradients;  ///< inner's, for as long as this lives
  Buffer pinned_weights;

  /// Fills in sizes in `layout`, which has rank and world size. ResourceExhausted when the device has too little
  /// memory; nothing is allocated.
  static absl::Status Plan(const ArenaRequest& request, const ArenaSizes& sizes, int landing_buckets, Memory& memory,
                           StagedLayout* layout);
  /// Allocates, pins inner's arenas, and fills in addresses. `inner` has allocated, unless the rank is alone.
  static absl::StatusOr<StagedArenas> Make(const ArenaRequest& request, const ArenaSizes& sizes, int landing_buckets,
                                           const CudaDeviceRef& device, Memory& memory, Communicator& inner,
                                           StagedLayout* layout);

 private:
  absl::Status MakeOnHost(const CudaDeviceRef& device, Memory& memory, Communicator& inner, StagedLayout* layout);
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_STAGED_STAGED_ARENAS_H_
