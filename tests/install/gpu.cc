// A trainer for GPUs, as far as it comes without one: exits with 0 when all that it needs is installed. Its argument is
// the path of libshardstep_cuda.so; without one there must be none.
#include <iostream>
#include <memory>
#include <string>
#include <utility>

#include "shardstep/comm/cuda/cuda_device.h"
#include "shardstep/comm/mpi/mpi_communicator.h"
#include "shardstep/comm/nccl/nccl_levels.h"
#include "shardstep/comm/shm/host_id.h"
#include "shardstep/comm/staged/staged_levels.h"
#include "shardstep/runtime/cuda_backend.h"
#include "shardstep/runtime/sharded_optimizer.h"

namespace {

using namespace shardstep;  // NOLINT: a trainer's own choice

/// `nccl`: nullptr where there is none. Devices, rendezvous and NCCL outlive the optimizer.
absl::StatusOr<std::unique_ptr<ShardedOptimizer>> Create(MpiRendezvous& rendezvous, const CudaDeviceRef& gpu,
                                                         ComputeDevice& device, NcclApi* nccl) {
  CommunicatorLevels levels;
  if (nccl != nullptr) {
    SHARDSTEP_ASSIGN_OR_RETURN(levels, CreateNcclLevels(*nccl, gpu, device.memory(), rendezvous, {}));
  } else {
    SHARDSTEP_ASSIGN_OR_RETURN(CommunicatorLevels on_cpus, CreateClusterCommunicators(rendezvous, {}));
    SHARDSTEP_ASSIGN_OR_RETURN(levels, StageLevels(gpu, device.memory(), rendezvous, std::move(on_cpus), {}));
  }
  return ShardedOptimizer::Create(OptimizerOptions(), {{.name = "matrix", .shape = {50, 90}}}, std::move(levels),
                                  &rendezvous, &device);
}

absl::Status Start(const CudaBackend& backend, void* compute_stream) {
  SHARDSTEP_ASSIGN_OR_RETURN(const auto rendezvous, MpiRendezvous::Create());
  SHARDSTEP_ASSIGN_OR_RETURN(const CudaDeviceRef gpu,
                             ChooseCudaDevice(*backend.api, *rendezvous, {.host_id = DefaultHostId()}));
  SHARDSTEP_ASSIGN_OR_RETURN(const auto device, CreateCudaComputeDevice(backend, gpu, compute_stream));
  const auto nccl = LoadNccl("");
  return Create(*rendezvous, gpu, *device, nccl.ok() ? nccl->get() : nullptr).status();
}

}  // namespace

int main(int argc, char** argv) {
  const std::string path = argc > 1 ? argv[1] : "";
  const absl::StatusOr<CudaBackend> backend = GetCudaBackend(path);
  // The legacy default stream, which is refused where there is a GPU.
  const absl::Status status = backend.ok() ? Start(*backend, nullptr) : backend.status();
  std::cout << status << std::endl;
  return path.empty() == absl::IsNotFound(backend.status()) && !status.ok() ? 0 : 1;
}
