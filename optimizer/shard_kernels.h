#ifndef SHARDSTEP_OPTIMIZER_SHARD_KERNELS_H_
#define SHARDSTEP_OPTIMIZER_SHARD_KERNELS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/comm/bf16.h"
#include "shardstep/comm/buffer.h"
#include "shardstep/comm/slice.h"
#include "shardstep/comm/status.h"
#include "shardstep/comm/stream.h"
#include "shardstep/optimizer/digest_words.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/optimizer/step_words.h"
#include "shardstep/optimizer/update_rule.h"

namespace shardstep {

/// How slices are summed (numeric contract 1): groups of `sum_group` consecutive micro-batches first, p = p + slice
/// from +0, and each group, when its last micro-batch is in, s = s + p. A slice with several ranks is a whole group's
/// p. With a sum_group of 1 that is s = s + slice.
struct SumArgs {
  absl::Span<const Slice> slices;            ///< data of shard_elements each; ascending by rank, any mixture of dtypes
  int64_t sum_group = 1;                     ///< G >= 1
  int64_t first_micro_batch = 0;             ///< slice i holds micro-batches first + slice.rank and on
  const float* accumulator = nullptr;        ///< s so far, shard_elements; nullptr: +0
  const float* group_accumulator = nullptr;  ///< p so far of a group that an earlier micro-step began; nullptr: +0
  bool closes = true;                        ///< the step's last slices: a group that is open ends here
};

/// The sum of one bucket's shard. A block that holds a sum which is not finite adds nothing to squared_norm; sums that
/// come in not finite are no new overflow, and a place where a group's sum overflows s is that of its last micro-batch.
/// Costs each slice's bytes per element, plus 4 for each accumulator.
struct ReduceArgs {
  absl::Span<const Segment> segments;
  SumArgs sum;
  /// Outputs, shard_elements each, nullptr where not wanted; may be where `sum` reads.
  float* accumulator_out = nullptr;        ///< s
  float* group_accumulator_out = nullptr;  ///< p of the group that is open in the end; needed when one is
  Bf16* rounded_out = nullptr;             ///< bf16(s), nearest even
  /// Add block sums, each times its segment's norm_weight in double, to scan->squared_norm, and max_abs_bits: the last
  /// micro-step.
  bool take_norm = false;
  ScanResult* scan = nullptr;  ///< nullptr: do not look; else non-finite places are always searched
};

/// The fused update of one bucket's shard: g = (sum of the slices as in Reduce) * scale; the rule; weights to every
/// destination. Does nothing when !scalars->apply. AdamW with an fp32 master costs 26 bytes per element plus the sum's.
struct UpdateArgs {
  UpdateKind kind;
  DType weight_dtype = DType::kBf16;
  absl::Span<const Segment> segments;
  SumArgs sum;  ///< no slices when the accumulator holds the whole sum
  /// shard_elements each; exactly those that `kind` and `weight_dtype` ask for.
  float* master = nullptr;        ///< kFp32 behind bf16 weights
  uint16_t* remainder = nullptr;  ///< kSplit
  float* first_moment = nullptr;
  float* second_moment = nullptr;
  /// shard_elements of weight_dtype each. The first is this rank's own, which is read too unless `master` is there.
  absl::Span<void* const> destinations;
  const UpdateScalars* scalars = nullptr;
  absl::Span<const RuleScalars> rules;  ///< Segment::scalars chooses; read when the launch runs
};

/// Zeroes gradients that nobody wrote, or that are to be added to.
struct ZeroArgs {
  BufferView gradient;
};

/// Copies between buffers of the caller and the arenas.
struct CopyArgs {
  const void* from = nullptr;
  void* to = nullptr;
  int64_t size_bytes = 0;
};

/// Adds the digest (digest.h) of elements [begin_element, begin_element + elements) of a parameter to `*sum`, memory of
/// the device: begin_element is a multiple of 1024, and the range ends at one or at the parameter's end.
struct DigestArgs {
  DigestForm form = DigestForm::kFp32;
  const void* values = nullptr;         ///< bf16 or fp32, by form
  const uint16_t* remainder = nullptr;  ///< kWidened: what the values lack of a split master; nullptr: nothing
  int64_t parameter = 0;
  int64_t begin_element = 0;
  int64_t elements = 0;
  DigestSum* sum = nullptr;
};

/// One range that a launch reads or writes.
struct MemoryAccess {
  const void* begin = nullptr;
  int64_t size_bytes = 0;
  bool write = false;
};
/// All ranges that a launch touches: slices and state segment by segment (padding is not among them), scan and scalars
/// whole. What the happens-before check and the poisoned-memory tests go by.
std::vector<MemoryAccess> Accesses(const ReduceArgs& args);
std::vector<MemoryAccess> Accesses(const UpdateArgs& args);
std::vector<MemoryAccess> Accesses(const ZeroArgs& args);
std::vector<MemoryAccess> Accesses(const CopyArgs& args);
std::vector<MemoryAccess> Accesses(const DigestArgs& args);
std::vector<MemoryAccess> Accesses(const ContributeWords& words);
std::vector<MemoryAccess> Accesses(const DecideWords& words);

/// The arithmetic of a step on one kind of device. Launches are stream-ordered; what the arguments point to must live
/// until the stream has passed them, spans and this object included. Threads: any; launches of several streams may run
/// at the same time. All implementations give the same bits, except which NaN a NaN of sum, master or state is.
/// InvalidArgument when the stream is of another kind, or a pointer that the arguments need is missing or too many.
class ShardKernels {
 public:
  virtual ~ShardKernels() = default;
  virtual absl::Status Reduce(const ReduceArgs& args, Stream& stream) = 0;
  virtual absl::Status Update(const UpdateArgs& args, Stream& stream) = 0;
  virtual absl::Status Zero(const ZeroArgs& args, Stream& stream) = 0;
  virtual absl::Status Copy(const CopyArgs& args, Stream& stream) = 0;
  /// Between steps. One launch at a time adds to a sum.
  virtual absl::Status Digest(const DigestArgs& args, Stream& stream) = 0;
  /// Step words (step_words.h).
  virtual absl::Status Contribute(const ContributeWords& words, Stream& stream) = 0;
  virtual absl::Status Decide(const DecideWords& words, Stream& stream) = 0;

  /// Every list of segments that launches may name from now on, by the address of its first one; what they hold must
  /// not change until the next call. Between steps, nothing is under way.
  virtual absl::Status SetSegments(absl::Span<const absl::Span<const Segment>> lists) = 0;
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
