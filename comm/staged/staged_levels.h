#ifndef SHARDSTEP_COMM_STAGED_STAGED_LEVELS_H_
#define SHARDSTEP_COMM_STAGED_STAGED_LEVELS_H_

#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/comm/levels.h"
#include "shardstep/comm/memory.h"
#include "shardstep/comm/rendezvous.h"
#include "shardstep/comm/staged/staged_communicator.h"

namespace shardstep {

/// Collective over all ranks of `job`. The levels of a job on CPUs, `inner`, made for arrays on GPUs: each communicator
/// is staged (staged_communicator.h), so that
///   StageLevels(device, memory, *rendezvous, *CreateClusterCommunicators(*rendezvous, {}), {})
/// goes through shared memory within hosts and MPI between them, without NCCL. `inner` has not been allocated; maps and
/// numbers of ranks stay, and what joins its levels, failures and ranks that are away, joins these.
///
/// Ranks succeed or fail together, with the error of the lowest failing rank: InvalidArgument when `inner` is not of
/// the ranks of `job`, and all errors of CreateStagedCommunicator. `job`, `memory` and what `inner` needs must outlive
/// the levels; `job` is used by creation and Allocate.
absl::StatusOr<CommunicatorLevels> StageLevels(const CudaDeviceRef& device, Memory& memory, Rendezvous& job,
                                               CommunicatorLevels inner, const StagedOptions& options);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_STAGED_STAGED_LEVELS_H_
