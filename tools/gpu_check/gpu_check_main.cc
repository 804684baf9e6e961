// shardstep_gpu_check: whether the CUDA backend does on this machine's GPU what it does everywhere.
#include <unistd.h>

#include <climits>
#include <iostream>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "shardstep/comm/nccl/nccl_api.h"
#include "shardstep/tools/exit_code.h"
#include "shardstep/tools/gpu_check/floor_check.h"
#include "shardstep/tools/gpu_check/gpu_check_options.h"
#include "shardstep/tools/gpu_check/kernel_check.h"
#include "shardstep/tools/gpu_check/nccl_check.h"
#include "shardstep/tools/gpu_check/rank_processes.h"
#include "shardstep/tools/gpu_check/step_checks.h"

namespace shardstep::gpu_check {
namespace {

constexpr int kFail = 1;
constexpr absl::Duration kRanksDeadline = absl::Seconds(100);

int Threads(const GpuCheckOptions& options) {
  if (options.threads > 0) return options.threads;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// The one that was asked for; NotFound and FailedPrecondition: none that can be used.
absl::StatusOr<Gpu> FindGpu(const GpuCheckOptions& options) {
  SHARDSTEP_ASSIGN_OR_RETURN(const CudaBackend backend, GetCudaBackend());
  int count = 0;
  const int error = backend.api->GetDeviceCount(&count);
  if (error != CudaApi::kSuccess) {
    return absl::NotFoundError(
        absl::StrCat("this machine has no GPU that can be used: ", backend.api->ErrorText(error)));
  }
  if (options.device >= count) {
    return absl::NotFoundError(absl::StrCat("there is no GPU number ", options.device, " among ", count));
  }
  return Gpu{.backend = backend, .device = {.api = backend.api, .device = options.device}};
}

absl::StatusOr<std::string> DescribeGpu(const Gpu& gpu) {
  CudaDeviceProperties properties;
  CudaApi& api = *gpu.device.api;
  SHARDSTEP_RETURN_IF_ERROR(
      CudaStatus(api, api.GetDeviceProperties(gpu.device.device, &properties), "cudaGetDeviceProperties"));
  return absl::StrCat(properties.name, ", compute capability ", properties.major, ".", properties.minor, ", ",
                      properties.multiprocessors, " multiprocessors, ", properties.memory_bytes >> 20, " MiB");
}

absl::StatusOr<std::string> OwnPath() {
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
  if (length <= 0) return absl::ErrnoToStatus(errno, "/proc/self/exe");
  return std::string(path, static_cast<size_t>(length));
}

// A queue of the driver has some thousand places: a whole step must fit in behind what holds it up.
Training WithShortSteps(Training training) {
  training.micro_batches = 2;
  return training;
}

absl::StatusOr<std::string> CheckProcesses(const GpuCheckOptions& options, bool cuda) {
  SHARDSTEP_ASSIGN_OR_RETURN(const std::string program, OwnPath());
  const RunRanks run = [&](int world_size, bool on_gpu) -> absl::StatusOr<std::vector<std::string>> {
    SHARDSTEP_ASSIGN_OR_RETURN(const std::string address, FreeLoopbackAddress());
    return RunRankProcesses(
        program, world_size,
        [&](int rank) {
          return RankArguments(options, {.rank = rank, .world_size = world_size, .address = address}, on_gpu);
        },
        kRanksDeadline);
  };
  return CheckRanks(run, options.ranks, cuda);
}

absl::StatusOr<std::string> CheckGpuKernels(const GpuCheckOptions& options, const Gpu& gpu) {
  SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<KernelTarget> cuda, CreateCudaTarget(gpu.backend, gpu.device));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<KernelTarget> cpu, CreateCpuTarget("", Threads(options)));
  SHARDSTEP_ASSIGN_OR_RETURN(
      const std::string same,
      CheckKernels(*cpu, *cuda, {.elements = options.elements, .decisions = options.decisions, .seed = options.seed}));
  SHARDSTEP_ASSIGN_OR_RETURN(std::vector<std::unique_ptr<KernelTarget>> all, CreateCpuTargets(Threads(options)));
  all.insert(all.begin(), CreateReferenceTarget());
  SHARDSTEP_ASSIGN_OR_RETURN(all.emplace_back(), CreateCudaTarget(gpu.backend, gpu.device));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::string hash, CheckOneHash(all));
  return absl::StrCat(same, "; ", hash);
}

absl::StatusOr<std::string> CheckHostKernels(const GpuCheckOptions& options) {
  const std::unique_ptr<KernelTarget> reference = CreateReferenceTarget();
  SHARDSTEP_ASSIGN_OR_RETURN(std::vector<std::unique_ptr<KernelTarget>> all, CreateCpuTargets(Threads(options)));
  for (const std::unique_ptr<KernelTarget>& target : all) {
    SHARDSTEP_RETURN_IF_ERROR(
        CheckKernels(*reference, *target,
                     {.elements = options.elements / 100, .decisions = options.decisions, .seed = options.seed})
            .status());
  }
  all.insert(all.begin(), CreateReferenceTarget());
  return CheckOneHash(all);
}

// That the table of calls can be used where there is no driver; says what it finds.
absl::StatusOr<std::string> LookForCuda(const GpuCheckOptions& options) {
  SHARDSTEP_RETURN_IF_ERROR(GetCudaBackend().status());
  const absl::StatusOr<Gpu> gpu = FindGpu(options);
  if (!gpu.ok()) return std::string(gpu.status().message());
  return DescribeGpu(*gpu);
}

absl::StatusOr<std::string> LookForNccl(const GpuCheckOptions& options) {
  const absl::StatusOr<std::unique_ptr<NcclApi>> nccl = LoadNccl(options.nccl);
  if (nccl.ok()) return absl::StrCat("NCCL ", (*nccl)->Version());
  if (options.nccl_required) return nccl.status();
  return absl::StrCat("no NCCL: ", nccl.status().message());
}

absl::StatusOr<std::string> CheckHost(const GpuCheckOptions& options) {
  SHARDSTEP_ASSIGN_OR_RETURN(const std::string kernels, CheckHostKernels(options));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::string ranks, CheckProcesses(options, /*cuda=*/false));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::string cuda, LookForCuda(options));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::string nccl, LookForNccl(options));
  return absl::StrCat(kernels, "; ", ranks, "; ", cuda, "; ", nccl);
}

absl::StatusOr<std::string> CheckMachinesNccl(const GpuCheckOptions& options, const Gpu& gpu) {
  SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<NcclApi> nccl, LoadNccl(options.nccl));
  return CheckNccl(*nccl, gpu.device, {});
}

absl::StatusOr<std::string> Check(const GpuCheckOptions& options, const Gpu& gpu) {
  switch (options.command) {
    case Command::kKernels:
      return CheckGpuKernels(options, gpu);
    case Command::kNccl:
      return CheckMachinesNccl(options, gpu);
    case Command::kStaged:
      return CheckProcesses(options, /*cuda=*/true);
    case Command::kGraph:
      return CheckGraph(options.training, gpu.backend, gpu.device);
    case Command::kAsync:
      return CheckAsync(WithShortSteps(options.training), gpu.backend, gpu.device);
    case Command::kBench:
      return CheckFloors(gpu, {.parameters = options.parameters}, std::cout);
    default:
      return absl::InternalError("no check");
  }
}

int Show(Command command, const absl::StatusOr<std::string>& result) {
  std::cout << (result.ok() ? "PASS " : "FAIL ") << Name(command) << " "
            << (result.ok() ? *result : result.status().ToString()) << std::endl;
  return result.ok() ? 0 : kFail;
}

// One of the processes that CheckProcesses starts: prints its digests.
int RunRank(const GpuCheckOptions& options) {
  absl::StatusOr<std::string> digests = absl::UnknownError("");
  if (options.cuda) {
    const absl::StatusOr<Gpu> gpu = FindGpu(options);
    digests = gpu.ok() ? TrainRankProcess(options.training, options.rank, *gpu) : gpu.status();
  } else {
    digests = TrainRankProcess(options.training, options.rank, std::nullopt);
  }
  std::cout << (digests.ok() ? *digests : digests.status().ToString()) << std::endl;
  return digests.ok() ? 0 : kFail;
}

int Main(absl::Span<const char* const> arguments) {
  const absl::StatusOr<GpuCheckOptions> options = ParseGpuCheckOptions(arguments);
  if (!options.ok()) {
    std::cerr << "shardstep_gpu_check: " << options.status().message() << std::endl;
    return static_cast<int>(ExitCode::kUsage);
  }
  switch (options->command) {
    case Command::kHelp:
      std::cout << GpuCheckHelp();
      return 0;
    case Command::kRank:
      return RunRank(*options);
    case Command::kHost:
      return Show(Command::kHost, CheckHost(*options));
    default:
      break;
  }
  const absl::StatusOr<Gpu> gpu = FindGpu(*options);
  if (!gpu.ok()) {
    std::cout << "NOT RUN " << Name(options->command) << " " << gpu.status().message() << std::endl;
    return static_cast<int>(ExitCode::kConfiguration);
  }
  return Show(options->command, Check(*options, *gpu));
}

}  // namespace
}  // namespace shardstep::gpu_check

int main(int argc, char** argv) {
  return shardstep::gpu_check::Main({argv + 1, static_cast<size_t>(argc > 0 ? argc - 1 : 0)});
}
