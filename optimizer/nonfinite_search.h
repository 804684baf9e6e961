#ifndef SHARDSTEP_OPTIMIZER_NONFINITE_SEARCH_H_
#define SHARDSTEP_OPTIMIZER_NONFINITE_SEARCH_H_

#include <cstdint>

#include "shardstep/optimizer/shard_kernels.h"
#include "shardstep/optimizer/sum_schedule.h"

namespace shardstep {

/// The slow path of Reduce for a block whose sum is known not to be finite, called before anything is written: sums
/// elements [begin, begin + elements) of `segment` (counted from its start) once more, one by one, and lowers `scan` to
/// the smallest place of an element that is not finite in a slice that is not partial, and of an addition of a finite
/// one that makes a finite sum overflow.
void FindNonFinite(const SumSchedule& schedule, const Segment& segment, int64_t begin, int64_t elements,
                   ScanResult* scan);

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_NONFINITE_SEARCH_H_
