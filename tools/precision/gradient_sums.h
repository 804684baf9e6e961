#ifndef SHARDSTEP_TOOLS_PRECISION_GRADIENT_SUMS_H_
#define SHARDSTEP_TOOLS_PRECISION_GRADIENT_SUMS_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "shardstep/comm/bf16.h"

namespace shardstep {

/// The gradient of micro-batch (or rank) `source` for `element`.
using Gradients = std::function<Bf16(int64_t source, int64_t element)>;

/// Random gradients with a common mean: uniform between these two, rounded to bf16. A pure function of (seed, source,
/// element). All are multiples of 2^-40 of at most 3 * 2^-10, so up to 2^21 of them a double adds exactly.
inline constexpr double kSmallestGradient = -0x1p-10;
inline constexpr double kLargestGradient = 3 * 0x1p-10;
Bf16 RandomGradient(uint64_t seed, int64_t source, int64_t element);

/// Relative errors ||sum - exact|| / ||exact||, Euclidean norms over all elements.
struct SumErrors {
  int64_t count = 0;          ///< summands
  double bf16 = 0;            ///< rounded to bf16 after every addition
  double fp32 = 0;            ///< added in fp32 in order, kept in fp32
  double fp32_then_bf16 = 0;  ///< added in fp32 in order, rounded to bf16 once
  double exact_mean = 0;      ///< of the exact sums, over elements
  double bf16_mean = 0;       ///< of the sums in bf16
};

/// Micro-gradients added up one by one, for counts 2, 4, ... up to `max_count`. Their exact sum must fit a double.
std::vector<SumErrors> ComputeAccumulationErrors(const Gradients& gradients, int64_t elements, int64_t max_count);

/// Gradients of 2, 4, ... up to `max_ranks` ranks added up: `bf16` as a ring reduce-scatter whose messages are bf16
/// does it (RingSum), `fp32` as Shardstep does it, in fp32 in rank order.
std::vector<SumErrors> ComputeRankSumErrors(const Gradients& gradients, int64_t elements, int64_t max_ranks);

/// One element of a ring reduce-scatter: the sum of shard s begins at rank s + 1 and passes every rank once until it
/// arrives at its owner s, rounded to bf16 at every hop. Elements are dealt to ranks in consecutive shards.
Bf16 RingSum(const Gradients& gradients, int64_t element, int64_t elements, int64_t ranks);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_PRECISION_GRADIENT_SUMS_H_
