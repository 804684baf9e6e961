#ifndef SHARDSTEP_TOOLS_GPU_CHECK_NCCL_CHECK_H_
#define SHARDSTEP_TOOLS_GPU_CHECK_NCCL_CHECK_H_

#include <string>

#include "absl/time/time.h"
#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/comm/nccl/nccl_api.h"

namespace shardstep::gpu_check {

struct NcclCheckOptions {
  int64_t elements = 1 << 20;  ///< of each collective
  int rounds = 8;              ///< of creation and destruction, and as many of creation and abort
  int64_t leak_bytes = int64_t{64} << 20;
  absl::Duration deadline = absl::Minutes(1);  ///< of NCCL's set-up
};

/// One rank: a communicator of NCCL is made, every collective that a step uses gives back what went in, it ends, is
/// aborted with work under way, and the device has its memory back. Then the same for our own communicator over it,
/// which is aborted twice. OK with NCCL's version; else what went wrong, with NCCL's last message.
absl::StatusOr<std::string> CheckNccl(NcclApi& nccl, const CudaDeviceRef& device, const NcclCheckOptions& options);

}  // namespace shardstep::gpu_check

#endif  // SHARDSTEP_TOOLS_GPU_CHECK_NCCL_CHECK_H_
