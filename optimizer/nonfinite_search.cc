#include "shardstep/optimizer/nonfinite_search.h"

#include <algorithm>
#include <cmath>

namespace shardstep {
namespace {

void Lower(GradientPlace* first, GradientPlace place) { *first = std::min(*first, place); }

// sum + value; a finite sum that a finite value makes overflow is noted as `place`.
float AddAndLook(float sum, float value, GradientPlace place, ScanResult* scan) {
  const float result = sum + value;
  if (std::isfinite(sum) && std::isfinite(value) && !std::isfinite(result)) Lower(&scan->first_overflow, place);
  return result;
}

void LookAtElement(const SumSchedule& schedule, int64_t index, int64_t global_element, ScanResult* scan) {
  float s = schedule.accumulator == nullptr ? 0.0f : schedule.accumulator[index];
  float p = schedule.group_accumulator == nullptr ? 0.0f : schedule.group_accumulator[index];
  if (schedule.begins_with_end) {
    s = AddAndLook(s, p, MakePlace(schedule.before_micro_batch, global_element), scan);
    p = 0.0f;
  }
  for (const Addition& addition : schedule.additions) {
    const float value = addition.dtype == DType::kFp32 ? static_cast<const float*>(addition.data)[index]
                                                       : ToFloat(static_cast<const Bf16*>(addition.data)[index]);
    const GradientPlace last = MakePlace(addition.last_micro_batch, global_element);
    if (!addition.partial && !std::isfinite(value)) {
      Lower(&scan->first_nonfinite, MakePlace(addition.micro_batch, global_element));
    }
    float* sum = addition.to_group ? &p : &s;
    *sum = AddAndLook(*sum, value, last, scan);
    if (addition.ends_group) {
      s = AddAndLook(s, p, last, scan);
      p = 0.0f;
    }
  }
}

}  // namespace

void FindNonFinite(const SumSchedule& schedule, const Segment& segment, int64_t begin, int64_t elements,
                   ScanResult* scan) {
  for (int64_t i = begin; i < begin + elements; ++i) {
    LookAtElement(schedule, segment.shard_begin_element + i, segment.global_begin_element + i, scan);
  }
}

}  // namespace shardstep
