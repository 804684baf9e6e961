#ifndef SHARDSTEP_COMM_SLICE_H_
#define SHARDSTEP_COMM_SLICE_H_

#include "shardstep/comm/dtype.h"

namespace shardstep {

/// A contribution to the gradient of a shard: `shard_elements` of `dtype`, readable by the owner. Either the gradients
/// of one micro-batch, as its rank computed them, or a partial sum.
struct Slice {
  const void* data = nullptr;
  DType dtype = DType::kBf16;
  int rank = 0;  ///< whose micro-batch it is; of a partial sum the first
  /// Consecutive ranks whose micro-batches it carries. More than one: a partial sum.
  int ranks = 1;
  /// A sum: inf and NaN in it were named by whoever formed it, who had the gradients.
  bool partial = false;
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_SLICE_H_
