#include "shardstep/tools/gpu_check/floor_check.h"

#include <ostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "shardstep/comm/inproc/thread_rendezvous.h"
#include "shardstep/tools/bench/bench_report.h"
#include "shardstep/tools/bench/cuda_bench.h"

namespace shardstep::gpu_check {

absl::StatusOr<std::string> JudgeFloors(const CudaBenchRow& row, int major) {
  const struct {
    const char* name;
    double ratio;
  } ratios[] = {{"update of its twin", row.update.of_twin()},
                {"update of a copy", row.update_of_copy()},
                {"norm of its twin", row.norm.of_twin()}};
  std::vector<std::string> texts, low;
  for (const auto& [name, ratio] : ratios) {
    texts.push_back(absl::StrFormat("%s %.3f", name, ratio));
    // What was not measured is no number, and not enough.
    if (!(ratio >= kLeastRatio)) low.push_back(texts.back());
  }
  const std::string step =
      absl::StrFormat("update kernel %.3f ms, step %.3f ms, %.3f of its floor, copy %.0f GB/s",
                      Median(row.update.kernel_ms), Median(row.step_ms), row.floor_ratio(), row.copy_gb_per_s());
  const std::string all = absl::StrCat(absl::StrJoin(texts, ", "), "; ", step);
  if (row.blocking_calls > 0) {
    return absl::InternalError(absl::StrCat(row.blocking_calls, " calls that may block the host; ", all));
  }
  if (row.wrong.value_or(0) > 0) return absl::InternalError(absl::StrCat(*row.wrong, " weights are wrong; ", all));
  if (major < kJudgedMajor) {
    return absl::StrCat(all, "; not judged below compute capability ", kJudgedMajor, ".0");
  }
  if (low.empty()) return all;
  return absl::InternalError(absl::StrFormat("below %.2f: %s; all: %s", kLeastRatio, absl::StrJoin(low, ", "), all));
}

absl::StatusOr<std::string> CheckFloors(const Gpu& gpu, const FloorCheckOptions& options, std::ostream& out) {
  CudaDeviceProperties properties;
  CudaApi& api = *gpu.device.api;
  SHARDSTEP_RETURN_IF_ERROR(
      CudaStatus(api, api.GetDeviceProperties(gpu.device.device, &properties), "cudaGetDeviceProperties"));
  const std::vector<std::string> arguments = {"--device=cuda", absl::StrCat("--gpu=", gpu.device.device),
                                              absl::StrCat("--model=flat:", options.parameters),
                                              absl::StrCat("--steps=", options.steps)};
  std::vector<const char*> pointers;
  for (const std::string& argument : arguments) pointers.push_back(argument.c_str());
  SHARDSTEP_ASSIGN_OR_RETURN(const BenchOptions bench, ParseBenchOptions(pointers));
  const std::unique_ptr<Rendezvous> rendezvous = ThreadRendezvousGroup(1).Join(0);
  const CudaBenchJob job = {.backend = {.api = gpu.device.api, .kernels = gpu.backend.kernels},
                            .rendezvous = rendezvous.get()};
  SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<CudaPlace> place, CudaPlace::Create(bench, job));
  SHARDSTEP_ASSIGN_OR_RETURN(const CudaBenchRow row, RunCudaBench(bench, job, *place, out));
  out << CudaBenchHeader() << "\n" << CudaBenchLine(row) << std::endl;
  return JudgeFloors(row, properties.major);
}

}  // namespace shardstep::gpu_check
