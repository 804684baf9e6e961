#ifndef SHARDSTEP_RUNTIME_STEP_COUNTERS_H_
#define SHARDSTEP_RUNTIME_STEP_COUNTERS_H_

#include <cstdint>

namespace shardstep {

/// Counts of steps, changed by decisions only, or set.
struct StepCounters {
  int64_t step = 0;               ///< calls of Step
  int64_t applied_steps = 0;      ///< those that changed the weights
  int64_t skipped_steps = 0;      ///< those skipped because something was not finite
  int64_t consecutive_skips = 0;  ///< of them, the latest in a row

  bool operator==(const StepCounters&) const = default;
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_STEP_COUNTERS_H_
