#ifndef SHARDSTEP_TOOLS_GPU_CHECK_KERNEL_CASE_H_
#define SHARDSTEP_TOOLS_GPU_CHECK_KERNEL_CASE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "shardstep/optimizer/shard_kernels.h"

namespace shardstep::gpu_check {

enum class Values {
  kPlain,  ///< finite, of ordinary size
  kWide,   ///< finite, of any size: denormals, zeros of both signs, huge
  kAny,    ///< any bits, infinities and NaNs too
};

enum class Accumulators { kNone, kOut, kInAndOut, kInPlace };

/// What one shard's reduction and update are made of.
struct CaseSpec {
  std::vector<int64_t> sizes;  ///< of the parameters, positive; they take the scalars 0, 1, 0, 1, ...
  UpdateKind kind;
  DType weight_dtype = DType::kBf16;
  bool nesterov = false;
  Values values = Values::kPlain;
  std::vector<Slice> slices;  ///< without data
  Accumulators accumulators = Accumulators::kNone;
  int64_t sum_group = 1;
  int64_t first_micro_batch = 0;
  bool closes = true;
  bool rounds = false;                ///< rounded_out is wanted
  int64_t misalignment_elements = 0;  ///< of all arrays
  int64_t global_begin_element = 0;
  uint64_t seed = 0;
};

/// How many specs there are before every rule, master, rounding, weight dtype, gradient dtype and kind of values has
/// met every other.
inline constexpr int64_t kSpecs = 20 * 3 * 3;
/// Spec number `index` >= 0, of about `elements` >= 1 elements.
CaseSpec SpecOf(int64_t index, int64_t elements, uint64_t seed);
/// "AdamW FP32, weights bf16, 4 slices, ...": what a message calls it.
std::string Describe(const CaseSpec& spec);

/// What is compared of an array.
enum class ArrayKind {
  kBits16,
  kWeightsFp32,  ///< 32 bits
  kFp32,         ///< 32 bits, and all NaNs are one
  kScan,         ///< a ScanResult
  kScalars       ///< read only
};

struct CaseArray {
  const char* name = "";
  ArrayKind kind = ArrayKind::kBits16;
  int64_t begin_byte = 0;  ///< in the case's memory; misaligned as the spec says
  int64_t elements = 0;
};

/// A case in one piece of memory, so that a target's copy is one copy: all arrays, one behind the other, what kernels
/// read through pointers (scalars, rules, scan) among them, and gaps that nobody may touch.
class KernelCase {
 public:
  explicit KernelCase(const CaseSpec& spec);

  const CaseSpec& spec() const { return spec_; }
  const std::vector<Segment>& segments() const { return segments_; }
  int64_t elements() const { return elements_; }
  /// What the memory holds before the launches.
  const std::vector<std::byte>& bytes() const { return bytes_; }

  /// Launches on a copy of the memory at `base`. What they point to besides lives until the next call.
  ReduceArgs Reduce(std::byte* base);
  UpdateArgs Update(std::byte* base);

  /// Empty, or the first place where two copies differ after the launches.
  std::string Difference(const std::vector<std::byte>& a, const std::vector<std::byte>& b) const;
  /// `bytes` with every NaN of kFp32 arrays as 0x7fc00000 and the scan normalized: equal exactly when Difference is
  /// empty.
  std::vector<std::byte> Canonical(std::vector<std::byte> bytes) const;

 private:
  int64_t Append(const char* name, ArrayKind kind, int64_t elements);
  void AppendArrays();
  void FillArrays();
  void FillScalars();
  SumArgs Sum(std::byte* base);
  bool ReadsAccumulator() const;
  bool ReadsGroup() const;
  bool OpenAtEnd() const;
  template <typename T>
  T* At(std::byte* base, int64_t begin_byte) const {
    return reinterpret_cast<T*>(base + begin_byte);
  }

  CaseSpec spec_;
  std::vector<Segment> segments_;
  int64_t elements_ = 0;        ///< without padding
  int64_t shard_elements_ = 0;  ///< with it
  std::vector<CaseArray> arrays_;
  std::vector<std::byte> bytes_;
  std::vector<int64_t> gradients_;  ///< begin bytes, as all below
  int64_t accumulator_ = 0, accumulator_out_ = 0, group_accumulator_ = 0, group_accumulator_out_ = 0;
  int64_t rounded_ = 0, master_ = 0, remainder_ = 0, first_moment_ = 0, second_moment_ = 0, weights_ = 0;
  int64_t scan_ = 0, scalars_ = 0, rules_ = 0;
  std::vector<Slice> slices_;
  void* destination_ = nullptr;
};

}  // namespace shardstep::gpu_check

#endif  // SHARDSTEP_TOOLS_GPU_CHECK_KERNEL_CASE_H_
