#ifndef SHARDSTEP_COMM_NCCL_NCCL_LEVELS_H_
#define SHARDSTEP_COMM_NCCL_NCCL_LEVELS_H_

#include <string>

#include "absl/time/time.h"
#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/comm/levels.h"
#include "shardstep/comm/memory.h"
#include "shardstep/comm/nccl/nccl_api.h"
#include "shardstep/comm/nccl/nccl_communicator.h"
#include "shardstep/comm/rendezvous.h"

namespace shardstep {

struct NcclLevelsOptions {
  enum class Levels {
    kOne,  ///< all ranks at once: NCCL finds its own way through hosts
    kTwo   ///< within hosts, and between them one rail per GPU: what the optimizer's sum_group and host_sum save by
  };
  /// Equal on all ranks.
  Levels levels = Levels::kOne;
  /// Who is on one host with whom; empty: DefaultHostId() (shm/host_id.h).
  std::string host_id;
  /// Where ranks of other hosts reach this one: a name or an address without a port. Empty: its name.
  std::string host_address;
  /// Of every operation on the device and of NCCL's creation. Positive.
  absl::Duration wait_deadline = absl::Seconds(60);
  /// Of every meeting inside CreateNcclLevels and Allocate. Positive.
  absl::Duration setup_deadline = absl::Minutes(10);
  /// These three as in NcclOptions.
  NcclExchange exchange = NcclExchange::kExact;
  int landing_buckets = 3;
  absl::Duration heartbeat = absl::Milliseconds(200);
};

/// Collective over all ranks of `job`, each with a GPU of its own (cuda_device.h): the levels of a job over NCCL. Every
/// level meets over a side rendezvous (tcp/side_rendezvous.h) in levels.rendezvous, so `job` may be of any kind and is
/// not used after creation. kTwo gives one level where there is one host, or one rank on each.
///
/// Two levels are joined, within some heartbeats: a failure or an abort of one ends both on all ranks, and while a rank
/// is away (Communicator::SetAway on both of its levels, as the optimizer does) no deadline runs in either.
///
/// Ranks succeed or fail together. InvalidArgument names the option: kTwo with an exchange that cannot join hosts,
/// among others; FailedPrecondition: kTwo where hosts have different numbers of ranks, or two ranks that disagree; and
/// all errors of CreateSideRendezvous and CreateNcclCommunicator. `nccl`, and what `device` and `memory` are of, must
/// outlive the levels.
absl::StatusOr<CommunicatorLevels> CreateNcclLevels(NcclApi& nccl, const CudaDeviceRef& device, Memory& memory,
                                                    Rendezvous& job, const NcclLevelsOptions& options);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_NCCL_NCCL_LEVELS_H_
