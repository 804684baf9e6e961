#include "shardstep/optimizer/nonfinite_search.h"

#include <algorithm>

#include "shardstep/optimizer/nonfinite_element.h"

namespace shardstep {

void FindNonFinite(const SumSchedule& schedule, const Segment& segment, int64_t begin, int64_t elements,
                   ScanResult* scan) {
  NonFinitePlaces places;
  for (int64_t i = begin; i < begin + elements; ++i) {
    LookAtElement(schedule, segment.shard_begin_element + i, segment.global_begin_element + i, &places);
  }
  scan->first_nonfinite = std::min(scan->first_nonfinite, places.nonfinite);
  scan->first_overflow = std::min(scan->first_overflow, places.overflow);
}

}  // namespace shardstep
