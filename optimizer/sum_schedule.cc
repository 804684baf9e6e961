#include "shardstep/optimizer/sum_schedule.h"

namespace shardstep {
namespace {

// Puts the end of the open group behind what is there so far.
void EndGroup(SumSchedule* schedule) {
  if (schedule->additions.empty()) {
    schedule->begins_with_end = true;
  } else {
    schedule->additions.back().ends_group = true;
  }
  schedule->open_at_end = false;
}

}  // namespace

SumSchedule MakeSumSchedule(const SumArgs& sum) {
  SumSchedule schedule = {.accumulator = sum.accumulator,
                          .group_accumulator = sum.group_accumulator,
                          .open_at_end = sum.group_accumulator != nullptr,
                          .plain = sum.group_accumulator == nullptr,
                          .before_micro_batch = sum.first_micro_batch - 1};
  int64_t open_group = sum.first_micro_batch / sum.sum_group;
  for (const Slice& slice : sum.slices) {
    const int64_t micro_batch = sum.first_micro_batch + slice.rank;
    const int64_t group = micro_batch / sum.sum_group;
    const bool to_group = sum.sum_group > 1 && slice.ranks == 1;
    if (schedule.open_at_end && (!to_group || group != open_group)) EndGroup(&schedule);
    schedule.additions.push_back({.data = slice.data,
                                  .dtype = slice.dtype,
                                  .to_group = to_group,
                                  .partial = slice.partial,
                                  .micro_batch = micro_batch,
                                  .last_micro_batch = micro_batch + slice.ranks - 1});
    if (!to_group) continue;
    schedule.plain = false;
    schedule.open_at_end = true;
    open_group = group;
    if ((micro_batch + 1) % sum.sum_group == 0) EndGroup(&schedule);
  }
  if (schedule.open_at_end && sum.closes) EndGroup(&schedule);
  return schedule;
}

}  // namespace shardstep
