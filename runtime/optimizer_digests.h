#ifndef SHARDSTEP_RUNTIME_OPTIMIZER_DIGESTS_H_
#define SHARDSTEP_RUNTIME_OPTIMIZER_DIGESTS_H_

#include "shardstep/optimizer/digest.h"

namespace shardstep {

/// Digests of the whole model: equal on every rank, at every world size.
struct OptimizerDigests {
  Digest weights;
  Digest master;
  Digest first_moment;
  Digest second_moment;

  bool operator==(const OptimizerDigests&) const = default;
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_OPTIMIZER_DIGESTS_H_
