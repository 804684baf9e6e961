#ifndef SHARDSTEP_TOOLS_BENCH_EMULATED_COMPUTE_H_
#define SHARDSTEP_TOOLS_BENCH_EMULATED_COMPUTE_H_

#include <cstdint>

#include "shardstep/tools/bench/mpi_world.h"

namespace shardstep {

/// Keeps a core busy with an amount of work, not for a time: what takes the core away meanwhile prolongs it, as it
/// would prolong a model's arithmetic. Touches no memory.
class EmulatedCompute {
 public:
  /// Collective: measured while every rank is busy; all get the same.
  explicit EmulatedCompute(MpiWorld& world);

  /// As much work as took `milliseconds` then.
  void Burn(double milliseconds) const;

 private:
  double rounds_per_ms_ = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_EMULATED_COMPUTE_H_
