#ifndef SHARDSTEP_TOOLS_BENCH_CUDA_PASSES_H_
#define SHARDSTEP_TOOLS_BENCH_CUDA_PASSES_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "shardstep/optimizer/shard_kernels.h"
#include "shardstep/runtime/compute_device.h"
#include "shardstep/runtime/shard_buffers.h"
#include "shardstep/tools/bench/step_cost.h"

namespace shardstep {

/// The kernels of a step on one GPU, alone, over all buckets of this rank and through the step's own buffers: as they
/// are, and their twins, which move the same bytes and compute nothing (optimizer/cuda_kernels.h): the bytes that
/// step_cost.h counts. Slices of other ranks are stood in for by shards of the own gradients.
///
/// A twin leaves masters and moments as they are; sums and weights become anything, until the next step writes them. A
/// kernel of kKernel changes the model. Both only enqueue.
class CudaPasses {
 public:
  enum class Kind { kKernel, kTwin };

  /// `device` and `stream`, which device's kernels can be enqueued on, outlive it. InvalidArgument: kernels without
  /// twins. Internal: the step keeps no sum where its cheapest form does.
  static absl::StatusOr<std::unique_ptr<CudaPasses>> Create(const StepCase& step, std::vector<ShardBuffers> buckets,
                                                            const GroupOptions& group, ComputeDevice& device,
                                                            Stream& stream);

  /// Whether Update has one; it has for AdamW with an fp32 master.
  bool has_update_twin() const;
  /// Whether a norm is taken before anything is updated.
  bool has_norm() const { return step_.two_passes; }

  /// All that comes before the decision; its last pass, which takes the norm; what comes after it.
  absl::Status Gradients(Kind kind);
  absl::Status Norm(Kind kind);
  absl::Status Update(Kind kind);

  /// What this rank's calls move.
  int64_t gradient_bytes() const;
  int64_t norm_bytes() const { return GradientPassBytes(GradientPasses(step_) - 1); }
  int64_t update_bytes() const;

 private:
  /// What kernels read and write beside the buffers.
  struct Words {
    ScanResult scan;
    UpdateScalars scalars;
    RuleScalars rule;
  };

  CudaPasses(const StepCase& step, std::vector<ShardBuffers> buckets, Stream& stream)
      : step_(step), buckets_(std::move(buckets)), stream_(stream) {}
  absl::Status Prepare(const GroupOptions& group, ComputeDevice& device);
  absl::Status GradientPass(Kind kind, int64_t pass);
  std::vector<Slice> Slices(const ShardBuffers& bucket) const;
  ReduceArgs ReduceOf(const ShardBuffers& bucket, const std::vector<Slice>& slices, int64_t pass) const;
  UpdateArgs UpdateOf(const ShardBuffers& bucket, const std::vector<Slice>& slices) const;
  int64_t elements() const;
  int64_t slice_bytes() const;
  int64_t GradientPassBytes(int64_t pass) const;

  const StepCase step_;
  const std::vector<ShardBuffers> buckets_;
  Stream& stream_;
  std::unique_ptr<ShardKernels> kernels_;
  Buffer words_;  ///< of the device
};

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_CUDA_PASSES_H_
