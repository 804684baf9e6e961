#include "shardstep/tools/gpu_check/rank_training.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "shardstep/comm/cuda/cuda_device.h"
#include "shardstep/comm/shm/host_id.h"
#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/comm/tcp/tcp_rendezvous.h"
#include "shardstep/tools/gpu_check/counting_cuda_api.h"

namespace shardstep::gpu_check {
namespace {

absl::StatusOr<std::string> TrainOnHost(const Training& training, Rendezvous& rendezvous,
                                        std::unique_ptr<Communicator> inner) {
  const std::unique_ptr<TrainingDevice> device = CreateHostTrainingDevice();
  SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<GpuTrainer> trainer,
                             GpuTrainer::Create(training, CommunicatorLevels(std::move(inner)), rendezvous, *device));
  SHARDSTEP_RETURN_IF_ERROR(trainer->Run(0, training.steps));
  return trainer->Digests();
}

absl::Status RunWithoutBlocking(const Training& training, CountingCudaApi& api, GpuTrainer& trainer) {
  for (int64_t step = 0; step < training.steps; ++step) {
    trainer.FillGradients(step);
    api.Begin();
    SHARDSTEP_RETURN_IF_ERROR(trainer.Enqueue(step));
    const auto calls = api.BlockingCalls();
    SHARDSTEP_RETURN_IF_ERROR(trainer.Finish(step));
    if (!calls.empty()) {
      return absl::InternalError(absl::StrCat("step ", step, " calls ", calls.begin()->first, ", which may block"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> TrainOnGpu(const Training& training, Rendezvous& rendezvous,
                                       std::unique_ptr<Communicator> inner, const Gpu& gpu) {
  CountingCudaApi api(*gpu.device.api);
  SHARDSTEP_ASSIGN_OR_RETURN(const CudaDeviceRef chosen, ChooseCudaDevice(api, rendezvous,
                                                                          {.ordinal = gpu.device.device,
                                                                           .host_id = DefaultHostId(),
                                                                           .allow_sharing = true,
                                                                           .deadline = absl::Minutes(1)}));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<CudaTrainingDevice> device,
                             CudaTrainingDevice::Create(gpu.backend, chosen));
  SHARDSTEP_ASSIGN_OR_RETURN(CommunicatorLevels levels, MakeStagedLevels(*device, rendezvous, std::move(inner)));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<GpuTrainer> trainer,
                             GpuTrainer::Create(training, std::move(levels), rendezvous, *device));
  SHARDSTEP_RETURN_IF_ERROR(RunWithoutBlocking(training, api, *trainer));
  return trainer->Digests();
}

}  // namespace

absl::StatusOr<std::string> TrainRank(const Training& training, Rendezvous& rendezvous,
                                      std::unique_ptr<Communicator> inner, const std::optional<Gpu>& gpu) {
  absl::StatusOr<std::string> digests = gpu.has_value() ? TrainOnGpu(training, rendezvous, std::move(inner), *gpu)
                                                        : TrainOnHost(training, rendezvous, std::move(inner));
  // The others are not to wait for a rank that has failed.
  if (!digests.ok()) rendezvous.Fail(digests.status());
  return digests;
}

absl::StatusOr<std::string> TrainRankProcess(const Training& training, const RankOptions& options,
                                             const std::optional<Gpu>& gpu) {
  SHARDSTEP_ASSIGN_OR_RETURN(
      const std::unique_ptr<Rendezvous> rendezvous,
      CreateTcpRendezvous({.address = options.address, .rank = options.rank, .world_size = options.world_size}));
  SHARDSTEP_ASSIGN_OR_RETURN(std::unique_ptr<Communicator> inner, CreateShmCommunicator(*rendezvous, {}));
  return TrainRank(training, *rendezvous, std::move(inner), gpu);
}

absl::StatusOr<std::string> CheckRanks(const RunRanks& run, int most_ranks, bool cuda) {
  std::string expected;
  for (const bool on_gpu : {false, true}) {
    if (on_gpu && !cuda) continue;
    for (int world_size = 1; world_size <= most_ranks; ++world_size) {
      const std::string job = absl::StrCat(world_size, " ranks ", on_gpu ? "that share a GPU" : "on CPUs");
      const absl::StatusOr<std::vector<std::string>> digests = run(world_size, on_gpu);
      SHARDSTEP_RETURN_IF_ERROR(Annotate(digests.status(), job));
      for (const std::string& found : *digests) {
        if (expected.empty()) expected = found;
        if (found == expected) continue;
        return absl::InternalError(absl::StrCat(job, " end in ", found, ", one on a CPU in ", expected));
      }
    }
  }
  return absl::StrCat("1 to ", most_ranks, " ranks ", cuda ? "on CPUs and sharing a GPU" : "on CPUs", " end in ",
                      expected);
}

}  // namespace shardstep::gpu_check
