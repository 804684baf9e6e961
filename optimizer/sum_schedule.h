#ifndef SHARDSTEP_OPTIMIZER_SUM_SCHEDULE_H_
#define SHARDSTEP_OPTIMIZER_SUM_SCHEDULE_H_

#include <cstdint>
#include <vector>

#include "shardstep/optimizer/shard_kernels.h"

namespace shardstep {

/// What one slice does to an element's sums s and p.
struct Addition {
  const void* data = nullptr;
  DType dtype = DType::kBf16;
  bool to_group = false;    ///< p = p + slice; else s = s + slice
  bool ends_group = false;  ///< then s = s + p and p = +0
  bool partial = false;     ///< what is not finite in it has no place here
  int64_t micro_batch = 0;  ///< the first that it carries
  int64_t last_micro_batch = 0;
};

/// SumArgs as a list, the same for every element: s and p start from the accumulators or +0, then come the additions.
struct SumSchedule {
  const float* accumulator = nullptr;
  const float* group_accumulator = nullptr;
  bool begins_with_end = false;     ///< the group that comes in ends before the first addition
  bool open_at_end = false;         ///< p is not part of s in the end
  bool plain = true;                ///< p takes no part
  int64_t before_micro_batch = -1;  ///< the last one of what comes in
  std::vector<Addition> additions;
};

/// See nonfinite_element.h.
inline int32_t AdditionCount(const SumSchedule& schedule) { return static_cast<int32_t>(schedule.additions.size()); }
inline bool IsFp32(const Addition& addition) { return addition.dtype == DType::kFp32; }

SumSchedule MakeSumSchedule(const SumArgs& sum);

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_SUM_SCHEDULE_H_
