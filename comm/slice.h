#ifndef SHARDSTEP_COMM_SLICE_H_
#define SHARDSTEP_COMM_SLICE_H_

#include <cstdint>

#include "shardstep/comm/bf16.h"

namespace shardstep {

/// One peer's contribution to a shard: bf16 gradients of `rank`, `shard_elements` of them, readable by the owner.
/// A slice carries one micro-batch; its number follows from the micro-step and the rank.
struct Slice {
  const Bf16* data = nullptr;
  int rank = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_SLICE_H_
