#ifndef SHARDSTEP_OPTIMIZER_SHARD_KERNELS_CUDA_H_
#define SHARDSTEP_OPTIMIZER_SHARD_KERNELS_CUDA_H_

#include <memory>

#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/comm/memory.h"
#include "shardstep/optimizer/cuda_kernels.h"
#include "shardstep/optimizer/shard_kernels.h"

namespace shardstep {

/// ShardKernels for streams of `device`: `kernels` compute there, the tables of SetSegments lie in `memory`. All of
/// them must outlive it. What the arguments of a launch point to is the device's, but for lists (slices, segments,
/// destinations, which are read before the launch returns) and the pinned words of step_words.h. An update has exactly
/// one destination, a sum at most CudaSumSchedule::kMaxAdditions slices: else InvalidArgument. FailedPrecondition: a
/// list of segments that SetSegments was not told. Internal: the device cannot be used.
absl::StatusOr<std::unique_ptr<ShardKernels>> CreateCudaShardKernels(CudaKernels& kernels, const CudaDeviceRef& device,
                                                                     Memory& memory);

/// The launches of the no-math twins (CudaKernels), on the same arguments and with the same refusals. Of kernels that
/// CreateCudaShardKernels made; `kernels` of another kind: InvalidArgument.
absl::Status LaunchReduceTwin(ShardKernels& kernels, const ReduceArgs& args, Stream& stream);
/// AdamW with an fp32 master behind bf16 weights, else InvalidArgument.
absl::Status LaunchUpdateTwin(ShardKernels& kernels, const UpdateArgs& args, Stream& stream);

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_SHARD_KERNELS_CUDA_H_
