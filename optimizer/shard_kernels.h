#ifndef SHARDSTEP_OPTIMIZER_SHARD_KERNELS_H_
#define SHARDSTEP_OPTIMIZER_SHARD_KERNELS_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/comm/slice.h"
#include "shardstep/comm/status.h"
#include "shardstep/comm/stream.h"
#include "shardstep/optimizer/adamw.h"
#include "shardstep/optimizer/exact_sum.h"
#include "shardstep/optimizer/shard_layout.h"

namespace shardstep {

/// Where something non-finite was seen, ordered by (micro-batch, parameter, element): the micro-batch in the upper 24
/// bits, the global element (ShardLayout::global_begin_element) in the lower 40. So a minimum over ranks finds the
/// first.
using GradientPlace = uint64_t;
/// Micro-batches of one step that a place can tell apart.
inline constexpr int64_t kMaxMicroBatches = (int64_t{1} << 24) - 1;
inline constexpr GradientPlace kNowhere = std::numeric_limits<uint64_t>::max();
inline constexpr GradientPlace MakePlace(int64_t micro_batch, int64_t global_element) {
  return static_cast<uint64_t>(micro_batch) << 40 | static_cast<uint64_t>(global_element);
}

/// What the reduce pass learns about a rank's gradients in one step, over all its buckets and micro-steps.
struct ScanResult {
  ExactSum squared_norm;                     ///< of the unscaled sums, block by block
  uint32_t max_abs_bits = 0;                 ///< largest |sum| as fp32 bits; 0x7f800000 when one is not finite
  GradientPlace first_nonfinite = kNowhere;  ///< smallest place of an inf or NaN in a slice
  GradientPlace first_overflow = kNowhere;   ///< smallest place where finite slices summed up to inf

  /// Order-free: the bits do not depend on how the work was shared.
  void Merge(const ScanResult& other);
};

/// The sum of one bucket's shard: s = accumulator_in (or +0), then s = s + float(slice) slice by slice, fp32. A block
/// that holds a sum which is not finite adds nothing to squared_norm; an accumulator_in that is not finite already is
/// no new overflow. Costs 2 bytes per element and slice, plus 4 for each accumulator.
struct ReduceArgs {
  absl::Span<const Segment> segments;
  absl::Span<const Slice> slices;         ///< data of shard_elements each
  int64_t first_micro_batch = 0;          ///< of slices[0]; slice i is micro-batch first + i
  const float* accumulator_in = nullptr;  ///< shard_elements, or nullptr for +0
  float* accumulator_out = nullptr;       ///< shard_elements, may be accumulator_in; nullptr: sum only to scan
  bool take_norm = false;               ///< add block sums to scan->squared_norm and max_abs_bits: the last micro-step
  ScanResult* scan = nullptr;           ///< nullptr: do not look; else non-finite places are always searched
  const ShardLayout* layout = nullptr;  ///< to name places; needed with scan
};

/// What Decide decided, read by Update through a pointer, so a skipped step changes no schedule.
struct UpdateScalars {
  bool apply = false;
  float scale = 0;                   ///< g = s * scale
  std::vector<AdamWScalars> groups;  ///< by group; sized at creation
};

/// The fused update of one bucket's shard: g = (accumulator, then slices, summed as in Reduce) * scale; AdamW;
/// bf16 weights to every destination. Does nothing when !scalars->apply. Costs 26 bytes per element plus 2 per slice
/// plus 4 with an accumulator.
struct UpdateArgs {
  absl::Span<const Segment> segments;
  absl::Span<const Slice> slices;      ///< empty when the accumulator holds the whole sum
  const float* accumulator = nullptr;  ///< shard_elements, or nullptr for +0
  float* master = nullptr;             ///< shard_elements each
  float* first_moment = nullptr;
  float* second_moment = nullptr;
  absl::Span<Bf16* const> destinations;  ///< shard_elements each
  const UpdateScalars* scalars = nullptr;
};

/// Zeroes gradients that nobody wrote, or that are to be added to.
struct ZeroArgs {
  absl::Span<Bf16> gradient;
};

/// One range that a launch reads or writes.
struct MemoryAccess {
  const void* begin = nullptr;
  int64_t size_bytes = 0;
  bool write = false;
};
/// All ranges that a launch touches: slices and state segment by segment (padding is not among them), scan and scalars
/// whole. What the happens-before check and
/// the poisoned-memory tests go by.
std::vector<MemoryAccess> Accesses(const ReduceArgs& args);
std::vector<MemoryAccess> Accesses(const UpdateArgs& args);
std::vector<MemoryAccess> Accesses(const ZeroArgs& args);

/// The arithmetic of a step on one kind of device. Launches are stream-ordered; what the arguments point to must live
/// until the stream has passed them, spans and this object included. Threads: any; launches of several streams may run
/// at the same time. All implementations give the same bits, except which NaN a NaN of sum, master or state is.
/// InvalidArgument when the stream is of another kind, or a pointer that the arguments need is missing.
class ShardKernels {
 public:
  virtual ~ShardKernels() = default;
  virtual absl::Status Reduce(const ReduceArgs& args, Stream& stream) = 0;
  virtual absl::Status Update(const UpdateArgs& args, Stream& stream) = 0;
  virtual absl::Status Zero(const ZeroArgs& args, Stream& stream) = 0;
  /// What the arithmetic was compiled for, to show: "AVX3".
  virtual absl::string_view target() const { return "unnamed"; }
};

/// The obvious reference: scalar loops that run at once, without any stream, on the calling thread. It judges every
/// other implementation.
void ReduceReference(const ReduceArgs& args);
void UpdateReference(const UpdateArgs& args);

/// Kernels for host streams: Highway, the best target that this CPU has unless `target` names one of CpuTargets();
/// `threads` >= 1 threads share each launch, and the bits do not depend on their number.
/// InvalidArgument when the target is unknown or this CPU lacks it.
absl::StatusOr<std::unique_ptr<ShardKernels>> CreateCpuShardKernels(int threads, absl::string_view target = "");

/// The compiled Highway targets, best first ("AVX3", "AVX2", ...), and whether this CPU can run each.
struct CpuTarget {
  std::string name;
  bool supported = false;
};
std::vector<CpuTarget> CpuTargets();

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_SHARD_KERNELS_H_
