#ifndef SHARDSTEP_TOOLS_GPU_CHECK_KERNEL_CHECK_H_
#define SHARDSTEP_TOOLS_GPU_CHECK_KERNEL_CHECK_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/tools/gpu_check/kernel_target.h"

namespace shardstep::gpu_check {

struct KernelCheckOptions {
  int64_t elements = 100'000'000;  ///< of all cases together, at least
  int64_t decisions = 2000;
  uint64_t seed = 1;
};

/// Every bit of what `tested` reduces, updates and decides is that of `judge`, in cases of all SpecOf(...) kinds. OK
/// with what was compared; Internal names the first case, array and element that differ.
absl::StatusOr<std::string> CheckKernels(KernelTarget& judge, KernelTarget& tested, const KernelCheckOptions& options);

/// One hash over what fixed cases of every kind end in, the same for all `targets`: OK with the hash and their names;
/// Internal names the hash of each.
absl::StatusOr<std::string> CheckOneHash(absl::Span<const std::unique_ptr<KernelTarget>> targets);

}  // namespace shardstep::gpu_check

#endif  // SHARDSTEP_TOOLS_GPU_CHECK_KERNEL_CHECK_H_
