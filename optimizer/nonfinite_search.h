#ifndef SHARDSTEP_OPTIMIZER_NONFINITE_SEARCH_H_
#define SHARDSTEP_OPTIMIZER_NONFINITE_SEARCH_H_

#include <cstdint>

#include "shardstep/optimizer/shard_kernels.h"

namespace shardstep {

/// The slow path of Reduce for a block whose sum is known not to be finite: sums elements [begin, begin + elements) of
/// `segment` (counted from its start) once more, one by one, and lowers `scan` to the smallest place of a slice element
/// that is not finite, and of an addition of a finite one that makes a finite sum overflow. `accumulator`: what those
/// elements start from, or nullptr for +0; apart from args.accumulator_in, which may be overwritten by now.
void FindNonFinite(const ReduceArgs& args, const Segment& segment, int64_t begin, int64_t elements,
                   const float* accumulator, ScanResult* scan);

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_NONFINITE_SEARCH_H_
