#ifndef SHARDSTEP_OPTIMIZER_KERNEL_ARGUMENTS_H_
#define SHARDSTEP_OPTIMIZER_KERNEL_ARGUMENTS_H_

#include "shardstep/comm/status.h"
#include "shardstep/optimizer/shard_kernels.h"

namespace shardstep {

/// Whether a launch has what it needs and nothing else: InvalidArgument names the pointer or number. For every
/// implementation of ShardKernels; nothing that arguments point to is read but their lists of slices and destinations.
absl::Status CheckArguments(const ReduceArgs& args);
absl::Status CheckArguments(const UpdateArgs& args);
absl::Status CheckArguments(const ZeroArgs& args);
absl::Status CheckArguments(const CopyArgs& args);
absl::Status CheckArguments(const DigestArgs& args);
absl::Status CheckArguments(const ContributeWords& words);
absl::Status CheckArguments(const DecideWords& words);

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_KERNEL_ARGUMENTS_H_
