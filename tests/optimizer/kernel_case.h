#ifndef SHARDSTEP_TESTS_OPTIMIZER_KERNEL_CASE_H_
#define SHARDSTEP_TESTS_OPTIMIZER_KERNEL_CASE_H_

#include <gtest/gtest.h>
#include <cstdint>
#include <random>
#include <vector>

#include "shardstep/optimizer/shard_kernels.h"

namespace shardstep {

enum class Values {
  kPlain,  ///< finite, of ordinary size
  kNasty,  ///< any bits: denormals, zeros of both signs, huge, infinities, NaNs with payloads
};

enum class AccumulatorUse { kNone, kIn, kOut, kInAndOut, kInPlace };

struct KernelCaseOptions {
  std::vector<int64_t> sizes;  ///< of the parameters, which take groups 0, 1, 0, 1, ...
  int slices = 2;
  Values values = Values::kPlain;
  AccumulatorUse accumulator = AccumulatorUse::kNone;
  int destinations = 1;
  int64_t misalignment_elements = 0;  ///< of everything that a trainer might bind
  uint32_t seed = 1;
};

/// One rank's shard (of world size 1, so of the whole bucket) with everything that a kernel reads and writes. A copy
/// has the same contents in memory of its own.
class KernelCase {
 public:
  explicit KernelCase(const KernelCaseOptions& options);

  ReduceArgs Reduce(bool take_norm = true, bool with_scan = true);
  UpdateArgs Update();

  KernelCaseOptions options;
  std::vector<Segment> segments;
  std::vector<std::vector<Bf16>> gradients;
  std::vector<float> accumulator_in, accumulator_out, master, first_moment, second_moment;
  std::vector<std::vector<Bf16>> weights;
  UpdateScalars scalars;
  ScanResult scan;

 private:
  ShardLayout layout_;
  std::vector<Slice> slices_;
  std::vector<Bf16*> destinations_;
};

/// Every array and the scan hold the same bits; a NaN of fp32 equals every NaN.
::testing::AssertionResult SameResults(const KernelCase& a, const KernelCase& b);

Bf16 NastyBf16(std::mt19937& random);
float NastyFloat(std::mt19937& random);

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_OPTIMIZER_KERNEL_CASE_H_
