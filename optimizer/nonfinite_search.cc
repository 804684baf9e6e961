#include "shardstep/optimizer/nonfinite_search.h"

#include <algorithm>
#include <cmath>

namespace shardstep {

void FindNonFinite(const ReduceArgs& args, const Segment& segment, int64_t begin, int64_t elements,
                   const float* accumulator, ScanResult* scan) {
  const int64_t global_begin = args.layout->global_begin_element(segment.parameter) + segment.begin_element + begin;
  for (int64_t i = 0; i < elements; ++i) {
    float sum = accumulator == nullptr ? 0.0f : accumulator[i];
    int64_t micro_batch = args.first_micro_batch;
    for (const Slice& slice : args.slices) {
      const Bf16 gradient = slice.data[segment.shard_begin_element + begin + i];
      const bool was_finite = std::isfinite(sum);
      sum += ToFloat(gradient);
      if (!IsFinite(gradient)) {
        scan->first_nonfinite = std::min(scan->first_nonfinite, MakePlace(micro_batch, global_begin + i));
        break;  // later ones of this element have larger places, and nothing can overflow any more
      }
      if (was_finite && !std::isfinite(sum)) {
        scan->first_overflow = std::min(scan->first_overflow, MakePlace(micro_batch, global_begin + i));
      }
      ++micro_batch;
    }
  }
}

}  // namespace shardstep
