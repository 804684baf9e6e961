#ifndef SHARDSTEP_RUNTIME_MEMORY_ESTIMATE_H_
#define SHARDSTEP_RUNTIME_MEMORY_ESTIMATE_H_

#include <cstdint>

namespace shardstep {

/// Bytes that a job holds, by purpose. Ranks of one host share one copy of the weights, unless they are PRIVATE.
struct MemoryEstimate {
  int64_t weights_shared_bytes = 0;   ///< once per host
  int64_t weights_private_bytes = 0;  ///< per rank, instead
  int64_t gradient_bytes = 0;         ///< per rank
  int64_t local_sum_bytes = 0;        ///< per rank: accumulation LOCAL
  int64_t master_bytes = 0;           ///< per rank: fp32 masters, or the halves that weights lack
  int64_t state_bytes = 0;            ///< per rank: moments
  int64_t accumulator_bytes = 0;      ///< per rank: running sums
  int64_t transit_bytes = 0;          ///< per rank: rings of slices and sums between hosts

  int64_t rank_bytes() const {
    return weights_private_bytes + gradient_bytes + local_sum_bytes + master_bytes + state_bytes + accumulator_bytes +
           transit_bytes;
  }
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_MEMORY_ESTIMATE_H_
