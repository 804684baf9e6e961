#ifndef SHARDSTEP_OPTIMIZER_CPU_BLOCK_KERNELS_H_
#define SHARDSTEP_OPTIMIZER_CPU_BLOCK_KERNELS_H_

#include <cstdint>
#include <vector>

#include "shardstep/optimizer/shard_kernels.h"
#include "shardstep/optimizer/sum_schedule.h"

namespace shardstep {

/// Elements [begin, begin + elements) of a segment, counted from its start: whole blocks, but for the segment's end.
struct BlockRun {
  const Segment* segment = nullptr;
  int64_t begin = 0;
  int64_t elements = 0;
};

/// The inner loops, compiled for one Highway target. They run on the calling thread, in the floating-point mode that it
/// is in; nothing is shared between runs but `scan`, which may be nullptr.
struct CpuBlockKernels {
  const char* target = nullptr;
  bool supported = false;  ///< by this CPU
  /// `schedule` is that of args.sum.
  void (*reduce)(const ReduceArgs& args, const SumSchedule& schedule, const BlockRun& run, ScanResult* scan) = nullptr;
  void (*update)(const UpdateArgs& args, const SumSchedule& schedule, const BlockRun& run) = nullptr;
  /// Of arrays that do not overlap. Long ones go past the caches.
  void (*copy)(const void* from, int64_t size_bytes, void* to) = nullptr;
  void (*zero)(int64_t size_bytes, void* to) = nullptr;
};

/// One entry per compiled target, best first.
std::vector<CpuBlockKernels> AllCpuBlockKernels();

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_CPU_BLOCK_KERNELS_H_
