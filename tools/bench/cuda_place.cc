#include "shardstep/tools/bench/cuda_place.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "shardstep/comm/cuda/cuda_device.h"
#include "shardstep/comm/nccl/nccl_levels.h"
#include "shardstep/comm/shm/host_id.h"
#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/comm/staged/staged_levels.h"

namespace shardstep {
namespace {

constexpr absl::Duration kMeetingDeadline = absl::Minutes(10);

std::string HostIdOf(const CudaBenchJob& job) { return job.host_id.empty() ? DefaultHostId() : job.host_id; }

absl::Status CheckTransport(const BenchOptions& options, const CudaBenchJob& job) {
  const bool needs_nccl = job.rendezvous->world_size() > 1 && options.gpu.transport == GpuTransport::kNccl;
  if (!needs_nccl || job.nccl != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "--transport=nccl: there is no NCCL here, and several ranks need it; --transport=staged does not");
}

}  // namespace

absl::Status CheckForGpus(CudaApi& api) {
  int count = 0;
  const int result = api.GetDeviceCount(&count);
  if (result == CudaApi::kSuccess && count > 0) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("there is no GPU that can be used: ",
                                          api.ErrorText(result == CudaApi::kSuccess ? CudaApi::kNoDevice : result)));
}

absl::StatusOr<std::unique_ptr<CudaPlace>> CudaPlace::Create(const BenchOptions& options, const CudaBenchJob& job) {
  SHARDSTEP_RETURN_IF_ERROR(
      AgreeOnStatus(*job.rendezvous, "--transport", CheckTransport(options, job), kMeetingDeadline));
  std::unique_ptr<CudaPlace> place(new CudaPlace(job.backend));
  SHARDSTEP_RETURN_IF_ERROR(place->Choose(options, job));
  SHARDSTEP_RETURN_IF_ERROR(place->MakeStream(job.backend));
  return place;
}

CudaPlace::~CudaPlace() {
  view_.reset();
  device_.reset();
  if (handle_ != nullptr) api_.StreamDestroy(handle_);
}

absl::Status CudaPlace::Choose(const BenchOptions& options, const CudaBenchJob& job) {
  CudaDeviceRequest request = {.host_id = HostIdOf(job),
                               .allow_sharing = options.gpu.transport == GpuTransport::kStaged,
                               .deadline = kMeetingDeadline};
  if (options.gpu.ordinal.has_value()) request.ordinal = *options.gpu.ordinal;
  SHARDSTEP_ASSIGN_OR_RETURN(ref_, ChooseCudaDevice(api_, *job.rendezvous, request));
  CudaDeviceProperties properties;
  SHARDSTEP_RETURN_IF_ERROR(
      CudaStatus(api_, api_.GetDeviceProperties(ref_.device, &properties), "cudaGetDeviceProperties"));
  model_ = properties.name;
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> devices,
                             job.rendezvous->AllGatherBytes("devices", properties.uuid, kMeetingDeadline));
  sharing_ = static_cast<int>(std::count(devices.begin(), devices.end(), properties.uuid));
  return absl::OkStatus();
}

absl::Status CudaPlace::MakeStream(const CudaBackend& backend) {
  SHARDSTEP_RETURN_IF_ERROR(MakeCurrent(ref_));
  SHARDSTEP_RETURN_IF_ERROR(CudaStatus(api_, api_.StreamCreate(&handle_), "cudaStreamCreate"));
  SHARDSTEP_ASSIGN_OR_RETURN(device_,
                             CreateCudaComputeDevice({.api = &api_, .kernels = backend.kernels}, ref_, handle_));
  SHARDSTEP_ASSIGN_OR_RETURN(view_, CudaStream::View(ref_, handle_, "benchmark"));
  return absl::OkStatus();
}

absl::StatusOr<int64_t> CudaPlace::FreeBytes() {
  int64_t free_bytes = 0;
  int64_t total_bytes = 0;
  SHARDSTEP_RETURN_IF_ERROR(CudaStatus(api_, api_.MemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo"));
  return free_bytes;
}

absl::StatusOr<CommunicatorLevels> MakeCudaLevels(const BenchOptions& options, const CudaBenchJob& job,
                                                  CudaPlace& place) {
  const absl::Duration deadline = options.optimizer.wait_deadline;
  CommunicatorLevels levels;
  if (options.gpu.transport == GpuTransport::kNccl && job.nccl != nullptr) {
    SHARDSTEP_ASSIGN_OR_RETURN(
        levels,
        CreateNcclLevels(*job.nccl, place.ref(), place.memory(), *job.rendezvous,
                         {.host_id = HostIdOf(job), .wait_deadline = deadline, .exchange = options.gpu.exchange}));
    return levels;
  }
  if (job.make_host_levels) {
    SHARDSTEP_ASSIGN_OR_RETURN(levels, job.make_host_levels());
  } else {
    SHARDSTEP_ASSIGN_OR_RETURN(
        levels.host, CreateShmCommunicator(*job.rendezvous, {.wait_deadline = deadline, .host_id = HostIdOf(job)}));
  }
  return StageLevels(place.ref(), place.memory(), *job.rendezvous, std::move(levels), {});
}

}  // namespace shardstep
