#ifndef SHARDSTEP_COMM_NCCL_NCCL_SETUP_H_
#define SHARDSTEP_COMM_NCCL_NCCL_SETUP_H_

#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/comm/nccl/nccl_communicator.h"
#include "shardstep/comm/nccl/nccl_link.h"
#include "shardstep/comm/rendezvous.h"

/// What ranks do together before they have a communicator.

namespace shardstep {

/// Collective. OK when options are valid and alike, NCCL is the same on all ranks, and each has a GPU of its own.
/// `mine`: what this rank alone has found wrong already.
absl::Status AgreeOnNccl(NcclApi& nccl, const CudaDeviceRef& device, Rendezvous& rendezvous, const NcclOptions& options,
                         const absl::Status& mine);

/// Collective. Initializes `link` on every rank, or fails on all: with the error of the lowest rank that failed, or
/// DeadlineExceeded naming the ranks that were not ready within `options.wait_deadline`.
absl::Status ConnectNccl(NcclApi& nccl, const CudaDeviceRef& device, Rendezvous& rendezvous, const NcclOptions& options,
                         NcclLink& link);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_NCCL_NCCL_SETUP_H_
