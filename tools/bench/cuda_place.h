#ifndef SHARDSTEP_TOOLS_BENCH_CUDA_PLACE_H_
#define SHARDSTEP_TOOLS_BENCH_CUDA_PLACE_H_

#include <functional>
#include <memory>
#include <string>

#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/comm/levels.h"
#include "shardstep/comm/nccl/nccl_api.h"
#include "shardstep/comm/rendezvous.h"
#include "shardstep/runtime/compute_device.h"
#include "shardstep/runtime/cuda_backend.h"
#include "shardstep/tools/bench/bench_options.h"
#include "shardstep/tools/gpu_check/counting_cuda_api.h"

namespace shardstep {

/// Where a benchmark on GPUs runs: the tables of calls, and how its ranks meet. All of it outlives the run.
struct CudaBenchJob {
  CudaBackend backend;
  /// nullptr: none; enough for one rank and for GpuTransport::kStaged.
  NcclApi* nccl = nullptr;
  Rendezvous* rendezvous = nullptr;
  /// Collective. What moves host memory among the ranks, for kStaged. Empty: shared memory of processes of one host.
  std::function<absl::StatusOr<CommunicatorLevels>()> make_host_levels;
  /// Equal for ranks of one host; empty: DefaultHostId().
  std::string host_id;
};

/// NotFound, in CUDA's words, when this process sees no device that can be used.
absl::Status CheckForGpus(CudaApi& api);

/// One rank's GPU as the benchmark uses it: the device, a compute stream of the program's own, as a trainer has one,
/// and a table that counts the calls which block.
class CudaPlace {
 public:
  /// Collective. Chooses the devices and allocates nothing on them but the stream. `job` outlives it. Errors are those
  /// of ChooseCudaDevice (comm/cuda/cuda_device.h), on every rank; FailedPrecondition: several ranks need an NCCL that
  /// is not there.
  static absl::StatusOr<std::unique_ptr<CudaPlace>> Create(const BenchOptions& options, const CudaBenchJob& job);
  ~CudaPlace();
  CudaPlace(const CudaPlace&) = delete;
  CudaPlace& operator=(const CudaPlace&) = delete;

  gpu_check::CountingCudaApi& api() { return api_; }
  const CudaDeviceRef& ref() const { return ref_; }
  /// "NVIDIA H100".
  const std::string& model() const { return model_; }
  /// Ranks of the job that use this device.
  int sharing() const { return sharing_; }
  ComputeDevice& device() { return *device_; }
  Memory& memory() { return device_->memory(); }
  /// A view of the compute stream.
  CudaStream& stream() { return *view_; }
  /// What is free on the device now.
  absl::StatusOr<int64_t> FreeBytes();

 private:
  explicit CudaPlace(const CudaBackend& backend) : api_(*backend.api) {}
  absl::Status Choose(const BenchOptions& options, const CudaBenchJob& job);
  absl::Status MakeStream(const CudaBackend& backend);

  gpu_check::CountingCudaApi api_;
  CudaDeviceRef ref_;
  std::string model_;
  int sharing_ = 1;
  CudaStreamHandle handle_ = nullptr;
  std::unique_ptr<ComputeDevice> device_;
  std::unique_ptr<CudaStream> view_;
};

/// Collective. The communicators that the options ask for; without NCCL a rank alone has staging, which
/// then moves nothing.
absl::StatusOr<CommunicatorLevels> MakeCudaLevels(const BenchOptions& options, const CudaBenchJob& job,
                                                  CudaPlace& place);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_CUDA_PLACE_H_
