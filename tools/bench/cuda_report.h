#ifndef SHARDSTEP_TOOLS_BENCH_CUDA_REPORT_H_
#define SHARDSTEP_TOOLS_BENCH_CUDA_REPORT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "shardstep/tools/bench/step_cost.h"

namespace shardstep {

/// One kernel over all buckets, alone. One value per round, of the slowest rank.
struct CudaKernelTimes {
  int64_t bytes = 0;  ///< that it must move on this rank
  std::vector<double> kernel_ms;
  std::vector<double> twin_ms;  ///< empty: it has none

  /// Of the medians, at most about 1: how much of its twin's speed it has. NaN without one.
  double of_twin() const;
};

/// A step on GPUs, and its distance to the floor.
struct CudaBenchRow {
  StepCase step;  ///< every rank is a host: it has a GPU's memory to itself
  int64_t parameters = 0;
  std::string device;     ///< of rank 0: "NVIDIA H100"
  std::string transport;  ///< "none" of one rank, "nccl", "staged"
  std::string exchange;   ///< "exact", "nccl_reduce_scatter"
  bool graph = false;
  std::optional<double> max_norm;

  // One value per round, of the slowest rank.
  std::vector<double> step_ms;
  std::vector<double> gradient_ms;  ///< the floor before the decision: the larger of memory's and the wire's
  std::vector<double> update_ms;    ///< after it
  std::vector<double> wire_ms;      ///< the wire alone, both halves
  bool floor_has_twins = true;      ///< otherwise what comes after the decision moves at copy_gb_per_s
  CudaKernelTimes norm;             ///< of the last pass before the decision; bytes 0: there is none
  CudaKernelTimes update;
  int64_t copied_bytes = 0;  ///< by a plain copy on the device, read and written
  std::vector<double> copy_ms;

  int64_t blocking_calls = 0;    ///< of all ranks, in all steps from GradientWritable to FinishStep
  double memory_bytes = 0;       ///< of the rank that took most, by what the device has left
  double estimated_bytes = 0;    ///< of the same one
  std::optional<int64_t> wrong;  ///< weights; unset: not compared

  double floor_ms() const;        ///< of the medians
  double floor_ratio() const;     ///< of the medians
  double copy_gb_per_s() const;   ///< of the median
  double update_of_copy() const;  ///< of the update kernel's bytes per second, and a copy's
};

/// The columns' names, and their values in one line of text; the keys, and their values as a JSON object.
std::string CudaBenchHeader();
std::string CudaBenchLine(const CudaBenchRow& row);
std::string CudaBenchJson(const CudaBenchRow& row);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_CUDA_REPORT_H_
