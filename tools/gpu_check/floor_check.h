#ifndef SHARDSTEP_TOOLS_GPU_CHECK_FLOOR_CHECK_H_
#define SHARDSTEP_TOOLS_GPU_CHECK_FLOOR_CHECK_H_

#include <cstdint>
#include <iosfwd>
#include <string>

#include "shardstep/tools/bench/cuda_report.h"
#include "shardstep/tools/gpu_check/rank_training.h"

namespace shardstep::gpu_check {

/// What is asked of an H100 or better: of a device of this compute capability and later.
inline constexpr int kJudgedMajor = 9;
/// Of a twin's speed, and of a copy's.
inline constexpr double kLeastRatio = 0.9;

/// OK with the ratios of a benchmark: those of the update and of the norm's pass are at least kLeastRatio, or the
/// device is older, which is said; no call has blocked the host; no weight was wrong, where any were checked
/// (CheckFloors checks none: that is for the others). Internal names what was not so.
absl::StatusOr<std::string> JudgeFloors(const CudaBenchRow& row, int major);

struct FloorCheckOptions {
  int64_t parameters = 500'000'000;
  int64_t steps = 7;
};

/// Benchmarks one rank and judges it; what the benchmark prints goes to `out`.
absl::StatusOr<std::string> CheckFloors(const Gpu& gpu, const FloorCheckOptions& options, std::ostream& out);

}  // namespace shardstep::gpu_check

#endif  // SHARDSTEP_TOOLS_GPU_CHECK_FLOOR_CHECK_H_
