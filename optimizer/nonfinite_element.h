#ifndef SHARDSTEP_OPTIMIZER_NONFINITE_ELEMENT_H_
#define SHARDSTEP_OPTIMIZER_NONFINITE_ELEMENT_H_

#include <cstdint>

#include "shardstep/comm/bf16.h"
#include "shardstep/comm/host_device.h"
#include "shardstep/optimizer/step_words.h"

namespace shardstep {

SHARDSTEP_HOST_DEVICE inline bool IsFinite(float value) { return (FloatBits(value) & 0x7f800000u) != 0x7f800000u; }

/// The smallest places that a search has seen.
struct NonFinitePlaces {
  GradientPlace nonfinite = kNowhere;
  GradientPlace overflow = kNowhere;
};

SHARDSTEP_HOST_DEVICE inline void LowerTo(GradientPlace place, GradientPlace* first) {
  if (place < *first) *first = place;
}

/// sum + value; a finite sum that a finite value makes overflow is noted as `place`.
SHARDSTEP_HOST_DEVICE inline float AddAndLook(float sum, float value, GradientPlace place, NonFinitePlaces* places) {
  const float result = sum + value;
  if (IsFinite(sum) && IsFinite(value) && !IsFinite(result)) LowerTo(place, &places->overflow);
  return result;
}

/// Sums the slices of one element once more and notes an element that is not finite in a slice that is not partial, and
/// an addition of a finite one that makes a finite sum overflow. `schedule` is a SumSchedule or a CudaSumSchedule, for
/// which AdditionCount(schedule) and IsFp32(its addition) are visible.
template <typename Schedule>
SHARDSTEP_HOST_DEVICE inline void LookAtElement(const Schedule& schedule, int64_t index, int64_t global_element,
                                                NonFinitePlaces* places) {
  float s = schedule.accumulator == nullptr ? 0.0f : schedule.accumulator[index];
  float p = schedule.group_accumulator == nullptr ? 0.0f : schedule.group_accumulator[index];
  if (schedule.begins_with_end) {
    s = AddAndLook(s, p, MakePlace(schedule.before_micro_batch, global_element), places);
    p = 0.0f;
  }
  const int32_t count = AdditionCount(schedule);
  SHARDSTEP_NO_UNROLL
  for (int32_t i = 0; i < count; ++i) {
    const auto& addition = schedule.additions[i];
    const float value = IsFp32(addition) ? static_cast<const float*>(addition.data)[index]
                                         : ToFloat(static_cast<const Bf16*>(addition.data)[index]);
    const GradientPlace last = MakePlace(addition.last_micro_batch, global_element);
    if (!addition.partial && !IsFinite(value)) {
      LowerTo(MakePlace(addition.micro_batch, global_element), &places->nonfinite);
    }
    if (addition.to_group) {
      p = AddAndLook(p, value, last, places);
    } else {
      s = AddAndLook(s, value, last, places);
    }
    if (addition.ends_group) {
      s = AddAndLook(s, p, last, places);
      p = 0.0f;
    }
  }
}

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_NONFINITE_ELEMENT_H_
