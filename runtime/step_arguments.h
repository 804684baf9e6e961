#ifndef SHARDSTEP_RUNTIME_STEP_ARGUMENTS_H_
#define SHARDSTEP_RUNTIME_STEP_ARGUMENTS_H_

#include <cstdint>
#include <optional>

namespace shardstep {

/// The arguments of one step; equal on every rank, which the decision verifies.
struct StepArguments {
  double learning_rate = 0;        ///< finite, >= 0
  int64_t micro_batches = 0;       ///< J; 0: micro_steps * world size. Numbered micro_step * world_size + rank
  std::optional<double> divisor;   ///< finite, > 0; default J
  std::optional<double> max_norm;  ///< finite, > 0; unset: no clipping
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_STEP_ARGUMENTS_H_
