#include "shardstep/runtime/job.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "absl/types/optional.h"
#include "shardstep/comm/cuda/cuda_device.h"
#include "shardstep/comm/inproc/thread_rendezvous.h"
#include "shardstep/comm/nccl/nccl_levels.h"
#include "shardstep/comm/shm/host_id.h"
#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/comm/staged/staged_levels.h"
#include "shardstep/comm/tcp/job_id.h"
#include "shardstep/comm/tcp/tcp_rendezvous.h"
#include "shardstep/runtime/cuda_backend.h"
#include "shardstep/runtime/job_mpi.h"

namespace shardstep {
namespace {

struct Device {
  bool cuda = false;
  absl::optional<int> ordinal;
};

absl::StatusOr<Device> ParseDevice(absl::string_view text) {
  Device device;
  absl::string_view rest = text;
  if (text == "cpu") return device;
  device.cuda = absl::ConsumePrefix(&rest, "cuda");
  if (device.cuda && rest.empty()) return device;
  int ordinal = 0;
  if (device.cuda && absl::ConsumePrefix(&rest, ":") && absl::SimpleAtoi(rest, &ordinal) && ordinal >= 0) {
    device.ordinal = ordinal;
    return device;
  }
  return absl::InvalidArgumentError(absl::StrCat("device = \"", text, "\": neither cpu nor cuda nor cuda:<number>"));
}

absl::Status CheckOptions(const JobOptions& job) {
  if (job.deadline <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat("deadline = ", absl::FormatDuration(job.deadline), ": must be positive"));
  }
  if (job.meet == JobMeeting::kAlone && (job.rank != 0 || job.world_size > 1 || !job.id.empty())) {
    return absl::InvalidArgumentError(
        absl::StrCat("meet: alone, and rank = ", job.rank, " of ", job.world_size, ", id = \"", job.id, "\""));
  }
  if (job.meet != JobMeeting::kTcp) return absl::OkStatus();
  if (job.world_size < 1) {
    return absl::InvalidArgumentError(absl::StrCat("world_size = ", job.world_size, ": must be positive"));
  }
  if (job.rank < 0 || job.rank >= job.world_size) {
    return absl::InvalidArgumentError(absl::StrCat("rank = ", job.rank, ": must be in 0..", job.world_size - 1));
  }
  if (job.id.empty()) return absl::InvalidArgumentError("id: empty, and ranks meet by it");
  return absl::OkStatus();
}

/// The ranks, and how their CPUs reach each other.
struct Meeting {
  std::unique_ptr<Rendezvous> rendezvous;
  std::function<absl::StatusOr<CommunicatorLevels>(const OptimizerOptions& options)> make_levels;
};

using MakeCommunicator = absl::StatusOr<std::unique_ptr<Communicator>> (*)(Rendezvous&, const SharedMemoryOptions&);

Meeting MeetingOnOneHost(std::unique_ptr<Rendezvous> rendezvous, MakeCommunicator make) {
  Meeting meeting;
  meeting.make_levels = [ranks = rendezvous.get(),
                         make](const OptimizerOptions& options) -> absl::StatusOr<CommunicatorLevels> {
    absl::StatusOr<std::unique_ptr<Communicator>> host = make(*ranks, {.wait_deadline = options.wait_deadline});
    if (!host.ok()) return Annotate(host.status(), "ranks on CPUs that did not meet by MPI must be on one host");
    return CommunicatorLevels(*std::move(host));
  };
  meeting.rendezvous = std::move(rendezvous);
  return meeting;
}

absl::StatusOr<Meeting> Meet(const JobOptions& job) {
  switch (job.meet) {
    case JobMeeting::kAlone:
      return MeetingOnOneHost(ThreadRendezvousGroup(1).Join(0), CreateInprocCommunicator);
    case JobMeeting::kTcp: {
      auto rendezvous =
          IsJobId(job.id)
              ? MeetByJobId(job.id, job.rank, job.world_size, job.deadline)
              : CreateTcpRendezvous(
                    {.address = job.id, .rank = job.rank, .world_size = job.world_size, .deadline = job.deadline});
      if (!rendezvous.ok()) return rendezvous.status();
      return MeetingOnOneHost(*std::move(rendezvous), CreateShmCommunicator);
    }
    case JobMeeting::kMpi: {
      SHARDSTEP_ASSIGN_OR_RETURN(MpiMeeting by_mpi, MeetByMpi(job.deadline));
      return Meeting{.rendezvous = std::move(by_mpi.rendezvous), .make_levels = std::move(by_mpi.make_levels)};
    }
  }
  return absl::InternalError("a meeting without a way to meet");
}

// Once per process: what is loaded stays.
absl::StatusOr<NcclApi*> TheNccl() {
  static absl::StatusOr<std::unique_ptr<NcclApi>>& nccl = *new absl::StatusOr<std::unique_ptr<NcclApi>>(LoadNccl(""));
  if (!nccl.ok()) return nccl.status();
  return nccl->get();
}

absl::Status PutOnGpu(const JobOptions& options, const Device& wanted, const OptimizerOptions& optimizer,
                      const Meeting& meeting, Job* job) {
  Rendezvous& ranks = *job->rendezvous;
  const bool staged = options.gpu_transport == GpuTransport::kStaged;
  // A rank that fails alone must tell the others, which would wait for it.
  const auto agree = [&](const absl::Status& mine) { return AgreeOnStatus(ranks, "JoinJob", mine, options.deadline); };

  const absl::StatusOr<CudaBackend> backend = GetCudaBackend();
  SHARDSTEP_RETURN_IF_ERROR(agree(backend.status()));
  absl::StatusOr<NcclApi*> nccl = nullptr;
  if (!staged) nccl = TheNccl();
  SHARDSTEP_RETURN_IF_ERROR(agree(nccl.status()));
  CudaDeviceRequest request{.host_id = DefaultHostId(), .allow_sharing = staged, .deadline = options.deadline};
  request.ordinal = wanted.ordinal;
  SHARDSTEP_ASSIGN_OR_RETURN(const CudaDeviceRef device, ChooseCudaDevice(*backend->api, ranks, request));
  job->gpu = device.device;
  auto compute_device = CreateCudaComputeDevice(*backend, device, options.compute_stream);
  SHARDSTEP_RETURN_IF_ERROR(agree(compute_device.status()));
  job->device = *std::move(compute_device);
  if (staged) {
    SHARDSTEP_ASSIGN_OR_RETURN(CommunicatorLevels levels, meeting.make_levels(optimizer));
    SHARDSTEP_ASSIGN_OR_RETURN(job->communicators,
                               StageLevels(device, job->device->memory(), ranks, std::move(levels), {}));
    return absl::OkStatus();
  }
  NcclLevelsOptions levels{.host_address = options.host_address, .wait_deadline = optimizer.wait_deadline};
  if (options.gpu_transport == GpuTransport::kNcclTwoLevels) levels.levels = NcclLevelsOptions::Levels::kTwo;
  if (options.gpu_transport == GpuTransport::kNcclReduceScatter) levels.exchange = NcclExchange::kReduceScatter;
  SHARDSTEP_ASSIGN_OR_RETURN(job->communicators,
                             CreateNcclLevels(**nccl, device, job->device->memory(), ranks, levels));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Job> JoinJob(const JobOptions& job, const OptimizerOptions& options) {
  SHARDSTEP_RETURN_IF_ERROR(Annotate(CheckOptions(job), "JoinJob"));
  SHARDSTEP_ASSIGN_OR_RETURN(const Device device, ParseDevice(job.device));
  SHARDSTEP_ASSIGN_OR_RETURN(Meeting meeting, Meet(job));
  Job joined;
  joined.rendezvous = std::move(meeting.rendezvous);
  if (device.cuda) {
    SHARDSTEP_RETURN_IF_ERROR(PutOnGpu(job, device, options, meeting, &joined));
    return joined;
  }
  joined.device = CreateHostDevice();
  SHARDSTEP_ASSIGN_OR_RETURN(joined.communicators, meeting.make_levels(options));
  return joined;
}

OptimizerOptions OptionsOfJointDecision(const std::vector<const OptimizerOptions*>& members) {
  OptimizerOptions options;
  // The ranks of all members on one level.
  options.weights = WeightCopies::kPrivate;
  options.wait_deadline = absl::ZeroDuration();
  for (const OptimizerOptions* member : members) {
    // A member that is late is to be named by its own rank, before others miss that rank.
    options.wait_deadline = std::max(options.wait_deadline, 2 * member->wait_deadline);
    options.max_message_bytes = member->max_message_bytes;
  }
  return options;
}

}  // namespace shardstep
