// shardstep_bench: what a sharded step takes, and how far that is from what memory and network allow.
#include <iostream>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "shardstep/comm/mpi/mpi_communicator.h"
#include "shardstep/comm/mpi/mpi_rendezvous.h"
#include "shardstep/tools/bench/bench_run.h"
#include "shardstep/tools/bench/cuda_bench.h"
#include "shardstep/tools/bench/kernel_bench.h"
#include "shardstep/tools/exit_code.h"
#include "shardstep/tools/text_file.h"

namespace shardstep {
namespace {

constexpr int kSlowerThanAsked = 1;

int Report(const absl::Status& status, Phase phase, int rank) {
  const ExitCode code = ExitCodeOf(status, phase);
  if (code != ExitCode::kOk) {
    std::cerr << absl::StrCat("shardstep_bench, rank ", rank, ": ", absl::StatusCodeToString(status.code()), ": ",
                              status.message(), "\n")
              << std::flush;
  }
  return static_cast<int>(code);
}

absl::Status CheckWeights(const std::optional<int64_t>& wrong) {
  if (wrong.value_or(0) == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("--check: ", *wrong, " weights are not those of an unsharded scalar step"));
}

// What rank 0 says in the end, and whether ours is as fast as asked.
absl::StatusOr<bool> Show(const BenchOptions& options, const std::vector<BenchRow>& rows) {
  std::cout << BenchHeader() << "\n";
  for (const BenchRow& row : rows) {
    std::cout << BenchLine(row) << "\n";
    if (!options.json_file.empty()) SHARDSTEP_RETURN_IF_ERROR(AppendText(options.json_file, BenchJson(row) + "\n"));
  }
  for (size_t i = 1; i < rows.size(); ++i) {
    std::cout << absl::StrCat("# ", rows[i].wire, ": ", Median(rows[i].step_ms) / Median(rows[0].step_ms),
                              " times our step\n");
  }
  std::cout << std::flush;
  SHARDSTEP_RETURN_IF_ERROR(CheckWeights(rows[0].wrong));
  return rows[0].floor_ratio() <= options.max_floor_ratio;
}

absl::Status ShowKernels(const BenchOptions& options, const std::vector<KernelRow>& rows) {
  std::cout << KernelHeader() << "\n";
  for (const KernelRow& row : rows) {
    std::cout << KernelLine(row) << "\n";
    if (!options.json_file.empty()) SHARDSTEP_RETURN_IF_ERROR(AppendText(options.json_file, KernelJson(row) + "\n"));
  }
  std::cout << std::flush;
  return absl::OkStatus();
}

// Collective. What cannot be written at the end is known before anything is measured.
absl::Status CheckFiles(const BenchOptions& options, MpiRendezvous& rendezvous) {
  absl::Status mine;
  if (rendezvous.rank() == 0) {
    if (!options.json_file.empty()) mine.Update(AppendText(options.json_file, ""));
    if (!options.trace_file.empty()) mine.Update(WriteTextFile(options.trace_file, ""));
  }
  return AgreeOnStatus(rendezvous, "files", mine, absl::Minutes(1));
}

// Collective. Whether ours is as fast as asked.
absl::StatusOr<bool> Measure(const BenchOptions& options, MpiRendezvous& rendezvous) {
  SHARDSTEP_RETURN_IF_ERROR(CheckFiles(options, rendezvous));
  MpiWorld world;
  const bool shows = rendezvous.rank() == 0;
  if (options.kernels) {
    SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<KernelRow> rows, RunKernelBench(options, world));
    if (shows) SHARDSTEP_RETURN_IF_ERROR(ShowKernels(options, rows));
    return true;
  }
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<BenchRow> rows, RunBench(options, rendezvous, world, std::cout));
  return shows ? Show(options, rows) : true;
}

// What there is not, and what cannot be done here, is a matter of how the program was started.
int ReportGpus(const absl::Status& status, Phase phase, int rank) {
  const absl::StatusCode cause = CauseOf(status);
  const bool missing =
      cause == absl::StatusCode::kUnimplemented || (phase == Phase::kSetup && cause == absl::StatusCode::kNotFound);
  const int code = Report(status, phase, rank);
  return missing ? static_cast<int>(ExitCode::kConfiguration) : code;
}

absl::StatusOr<bool> ShowGpus(const BenchOptions& options, const CudaBenchRow& row) {
  std::cout << CudaBenchHeader() << "\n" << CudaBenchLine(row) << "\n" << std::flush;
  if (!options.json_file.empty()) SHARDSTEP_RETURN_IF_ERROR(AppendText(options.json_file, CudaBenchJson(row) + "\n"));
  SHARDSTEP_RETURN_IF_ERROR(CheckWeights(row.wrong));
  return row.floor_ratio() <= options.max_floor_ratio;
}

// Collective. This machine's, if the options need it: a rank alone needs none, unless a file is named.
absl::StatusOr<std::unique_ptr<NcclApi>> FindNccl(const GpuOptions& options, Rendezvous& rendezvous) {
  if (options.transport == GpuTransport::kStaged) return nullptr;
  absl::StatusOr<std::unique_ptr<NcclApi>> nccl = LoadNccl(options.nccl_library);
  const bool needed = rendezvous.world_size() > 1 || !options.nccl_library.empty();
  SHARDSTEP_RETURN_IF_ERROR(
      AgreeOnStatus(rendezvous, "NCCL", needed ? nccl.status() : absl::OkStatus(), absl::Minutes(1)));
  return nccl.ok() ? *std::move(nccl) : nullptr;
}

// Collective. The row is shown by rank 0.
absl::StatusOr<bool> MeasureGpus(const BenchOptions& options, const CudaBackend& backend, MpiRendezvous& rendezvous,
                                 Phase* phase) {
  SHARDSTEP_RETURN_IF_ERROR(CheckFiles(options, rendezvous));
  SHARDSTEP_ASSIGN_OR_RETURN(const auto nccl, FindNccl(options.gpu, rendezvous));
  const CudaBenchJob job = {.backend = backend, .nccl = nccl.get(), .rendezvous = &rendezvous, .make_host_levels = [&] {
                              return CreateClusterCommunicators(
                                  rendezvous, {.wait_deadline = options.optimizer.wait_deadline,
                                               .max_message_bytes = options.optimizer.max_message_bytes});
                            }};
  SHARDSTEP_ASSIGN_OR_RETURN(const auto place, CudaPlace::Create(options, job));
  *phase = Phase::kRun;
  SHARDSTEP_ASSIGN_OR_RETURN(const CudaBenchRow row, RunCudaBench(options, job, *place, std::cout));
  return rendezvous.rank() == 0 ? ShowGpus(options, row) : true;
}

int RunOnGpus(const BenchOptions& options) {
  const absl::StatusOr<CudaBackend> backend = GetCudaBackend();
  if (!backend.ok()) return ReportGpus(backend.status(), Phase::kSetup, 0);
  if (const absl::Status gpus = CheckForGpus(*backend->api); !gpus.ok()) return ReportGpus(gpus, Phase::kSetup, 0);
  const absl::StatusOr<std::unique_ptr<MpiRendezvous>> rendezvous = MpiRendezvous::Create();
  if (!rendezvous.ok()) return Report(rendezvous.status(), Phase::kSetup, 0);
  Phase phase = Phase::kSetup;
  const absl::StatusOr<bool> fast_enough = MeasureGpus(options, *backend, **rendezvous, &phase);
  if (!fast_enough.ok()) {
    (*rendezvous)->Fail(fast_enough.status());
    return ReportGpus(fast_enough.status(), phase, (*rendezvous)->rank());
  }
  return *fast_enough ? 0 : kSlowerThanAsked;
}

int RunUnderMpi(const BenchOptions& options) {
  const absl::StatusOr<std::unique_ptr<MpiRendezvous>> rendezvous = MpiRendezvous::Create();
  if (!rendezvous.ok()) return Report(rendezvous.status(), Phase::kSetup, 0);
  const int rank = (*rendezvous)->rank();
  const absl::StatusOr<bool> fast_enough = Measure(options, **rendezvous);
  if (!fast_enough.ok()) {
    (*rendezvous)->Fail(fast_enough.status());
    return Report(fast_enough.status(), Phase::kRun, rank);
  }
  return *fast_enough ? 0 : kSlowerThanAsked;
}

int Main(int argc, char** argv) {
  const auto options = ParseBenchOptions({argv + 1, static_cast<size_t>(argc - 1)});
  if (!options.ok()) return Report(options.status(), Phase::kCommandLine, 0);
  if (options->help) {
    std::cout << BenchHelp();
    return 0;
  }
  return options->cuda ? RunOnGpus(*options) : RunUnderMpi(*options);
}

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) { return shardstep::Main(argc, argv); }
