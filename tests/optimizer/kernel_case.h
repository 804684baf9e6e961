#ifndef SHARDSTEP_TESTS_OPTIMIZER_KERNEL_CASE_H_
#define SHARDSTEP_TESTS_OPTIMIZER_KERNEL_CASE_H_

#include <gtest/gtest.h>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "shardstep/optimizer/shard_kernels.h"

namespace shardstep {

enum class Values {
  kPlain,  ///< finite, of ordinary size
  kNasty,  ///< any bits: denormals, zeros of both signs, huge, infinities, NaNs with payloads
};

enum class AccumulatorUse { kNone, kIn, kOut, kInAndOut, kInPlace };

/// `count` slices, of ranks 0, 1, ...; without data, which a KernelCase brings.
std::vector<Slice> Slices(int count, DType dtype = DType::kBf16);

/// One of each kind of update that there is: rules, masters, roundings, fp32 weights.
struct NamedUpdate {
  std::string name;
  UpdateKind kind;
  DType weight_dtype = DType::kBf16;
};
std::vector<NamedUpdate> AllUpdates();

struct KernelCaseOptions {
  std::vector<int64_t> sizes;  ///< of the parameters, which take scalars 0, 1, 0, 1, ...
  std::vector<Slice> slices = Slices(2);
  Values values = Values::kPlain;
  AccumulatorUse accumulator = AccumulatorUse::kNone;  ///< of the group's too, where there may be one
  int64_t sum_group = 1;
  int64_t first_micro_batch = 5;
  bool closes = true;
  bool rounds = false;  ///< rounded_out is wanted
  UpdateKind kind;
  DType weight_dtype = DType::kBf16;
  bool nesterov = false;
  int destinations = 1;
  int64_t misalignment_elements = 0;  ///< of everything that a trainer might bind
  int64_t global_begin_element = 0;   ///< of the first parameter
  uint32_t seed = 1;
};

/// An array of either dtype.
struct TypedArray {
  std::vector<Bf16> bf16;
  std::vector<float> fp32;

  void* data() { return bf16.empty() ? static_cast<void*>(fp32.data()) : bf16.data(); }
};

/// One rank's shard of a bucket with everything that a kernel reads and writes. A copy has the same contents in memory
/// of its own.
class KernelCase {
 public:
  explicit KernelCase(const KernelCaseOptions& options);

  ReduceArgs Reduce(bool take_norm = true, bool with_scan = true);
  UpdateArgs Update();

  /// Of the shard, padding included, and what precedes a shard that is misaligned.
  int64_t array_elements() const { return static_cast<int64_t>(accumulator_in.size()); }

  KernelCaseOptions options;
  std::vector<Segment> segments;
  std::vector<TypedArray> gradients;  ///< one per slice
  std::vector<float> accumulator_in, accumulator_out, group_accumulator_in, group_accumulator_out;
  std::vector<Bf16> rounded_out;
  std::vector<float> master, first_moment, second_moment;
  std::vector<uint16_t> remainder;
  std::vector<TypedArray> weights;  ///< one per destination
  UpdateScalars scalars;
  std::vector<RuleScalars> rules;
  ScanResult scan;

 private:
  SumArgs Sum();

  std::vector<Slice> slices_;
  std::vector<void*> destinations_;
};

/// Every array and the scan hold the same bits; a NaN equals every NaN in fp32 arrays that are not weights.
::testing::AssertionResult SameResults(const KernelCase& a, const KernelCase& b);

Bf16 NastyBf16(std::mt19937& random);
float NastyFloat(std::mt19937& random);

/// Names of the targets that this CPU can run.
std::vector<std::string> RunnableTargets();
/// The kernels of one of them.
std::unique_ptr<ShardKernels> KernelsOf(const std::string& target, int threads = 1);
/// Runs both passes on copies of `start` and on the reference, and compares every bit.
::testing::AssertionResult JudgedByReference(ShardKernels& kernels, const KernelCase& start);

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_OPTIMIZER_KERNEL_CASE_H_
