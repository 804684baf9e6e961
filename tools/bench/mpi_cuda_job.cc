#include "shardstep/tools/bench/mpi_cuda_job.h"

#include <mpi.h>

#include <numeric>
#include <utility>
#include <vector>

#include "shardstep/comm/mpi/mpi_communicator.h"
#include "shardstep/comm/mpi/mpi_rendezvous_of_comm.h"
#include "shardstep/comm/shm/host_id.h"
#include "shardstep/comm/shm/shared_memory_communicator.h"

namespace shardstep {
namespace {

constexpr absl::Duration kMeetingDeadline = absl::Minutes(10);

absl::StatusOr<std::unique_ptr<Communicator>> MakeHostCommunicator(const BenchOptions& options,
                                                                   MpiRendezvous& rendezvous) {
  const absl::Duration deadline = options.optimizer.wait_deadline;
  SHARDSTEP_ASSIGN_OR_RETURN(const HostMap map, MapHosts(rendezvous, DefaultHostId(), kMeetingDeadline));
  if (map.host_count() == 1) return CreateShmCommunicator(rendezvous, {.wait_deadline = deadline});
  std::vector<int> all(static_cast<size_t>(rendezvous.world_size()));
  std::iota(all.begin(), all.end(), 0);
  return CreateMpiCommunicator(rendezvous, all,
                               {.wait_deadline = deadline, .max_message_bytes = options.optimizer.max_message_bytes});
}

}  // namespace

absl::StatusOr<std::unique_ptr<MpiCudaJob>> MpiCudaJob::Create(const BenchOptions& options, const CudaBackend& backend,
                                                               MpiRendezvous& rendezvous) {
  std::unique_ptr<MpiCudaJob> made(new MpiCudaJob);
  if (options.gpu.transport == GpuTransport::kNccl) {
    auto nccl = LoadNccl(options.gpu.nccl_library);
    const bool needed = rendezvous.world_size() > 1 || !options.gpu.nccl_library.empty();
    SHARDSTEP_RETURN_IF_ERROR(
        AgreeOnStatus(rendezvous, "NCCL", needed ? nccl.status() : absl::OkStatus(), kMeetingDeadline));
    if (nccl.ok()) made->nccl_ = *std::move(nccl);
  }
  made->job_ = {.backend = backend,
                .nccl = made->nccl_.get(),
                .rendezvous = &rendezvous,
                .make_rendezvous = []() -> absl::StatusOr<std::unique_ptr<Rendezvous>> {
                  return CreateMpiRendezvous(MPI_COMM_WORLD);
                },
                .make_host_communicator = [options, &rendezvous] { return MakeHostCommunicator(options, rendezvous); },
                .host_id = ""};
  return made;
}

}  // namespace shardstep
