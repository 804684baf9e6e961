#ifndef SHARDSTEP_TOOLS_BENCH_KERNEL_BENCH_H_
#define SHARDSTEP_TOOLS_BENCH_KERNEL_BENCH_H_

#include <string>
#include <vector>

#include "shardstep/comm/status.h"
#include "shardstep/tools/bench/bench_options.h"
#include "shardstep/tools/bench/mpi_world.h"

namespace shardstep {

/// One kernel alone, in private memory.
struct KernelRow {
  std::string kernel;
  std::string target;  ///< Highway's name
  double bytes_per_element = 0;
  std::vector<double> kernel_ms;  ///< one per round
  std::vector<double> floor_ms;   ///< of as many bytes of the same arrays, moved and not computed with
};

/// Collective: all ranks do the same at the same time, each with the elements of its shard of the model, options.steps
/// times in turn with the floor. Every kernel on every target that this CPU has: Reduce and Update in the forms that a
/// step of so many ranks needs, with the rule and master of the options, Zero and Copy. Last a row for the floor
/// itself, of one pass over a shard: its target is a plain loop, as a compiler makes it, and its kernel is the floor.
absl::StatusOr<std::vector<KernelRow>> RunKernelBench(const BenchOptions& options, MpiWorld& world);

std::string KernelHeader();
std::string KernelLine(const KernelRow& row);
std::string KernelJson(const KernelRow& row);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_KERNEL_BENCH_H_
