#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shardstep/comm/cuda/cuda_memory.h"
#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/optimizer/shard_kernels_cuda.h"
#include "shardstep/runtime/cuda_backend.h"

namespace shardstep {
namespace {

class CudaComputeDevice : public ComputeDevice {
 public:
  CudaComputeDevice(const CudaBackend& backend, const CudaDeviceRef& device, std::unique_ptr<Memory> memory,
                    void* compute_stream, std::string name)
      : backend_(backend),
        device_(device),
        memory_(std::move(memory)),
        compute_stream_(compute_stream),
        name_(std::move(name)) {}

  absl::string_view name() const override { return name_; }
  Memory& memory() override { return *memory_; }
  bool shares_memory() const override { return false; }

  absl::StatusOr<std::unique_ptr<Stream>> CallerStream() override {
    return Base(CudaStream::View(device_, compute_stream_, "caller"));
  }
  absl::StatusOr<std::unique_ptr<Stream>> CreateStream(absl::string_view name) override {
    return Base(CudaStream::Create(device_, name));
  }
  absl::StatusOr<std::unique_ptr<ShardKernels>> CreateKernels(int /*threads*/) override {
    return CreateCudaShardKernels(*backend_.kernels, device_, *memory_);
  }

  bool captures() const override { return true; }
  void Settle(Stream& stream) override { static_cast<CudaStream&>(stream).Settle(); }
  void BeginRange(const char* range) override { device_.api->RangePush(range); }
  void EndRange() override { device_.api->RangePop(); }

 private:
  static absl::StatusOr<std::unique_ptr<Stream>> Base(absl::StatusOr<std::unique_ptr<CudaStream>> stream) {
    if (!stream.ok()) return stream.status();
    return std::unique_ptr<Stream>(*std::move(stream));
  }

  const CudaBackend backend_;
  const CudaDeviceRef device_;
  const std::unique_ptr<Memory> memory_;
  void* const compute_stream_;
  const std::string name_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ComputeDevice>> CreateCudaComputeDevice(const CudaBackend& backend,
                                                                       const CudaDeviceRef& device,
                                                                       void* compute_stream) {
  CudaDeviceProperties properties;
  SHARDSTEP_RETURN_IF_ERROR(CudaStatus(*device.api, device.api->GetDeviceProperties(device.device, &properties),
                                       absl::StrCat("properties of device ", device.device)));
  SHARDSTEP_ASSIGN_OR_RETURN(std::unique_ptr<Memory> memory, CreateCudaMemory(device));
  return std::make_unique<CudaComputeDevice>(backend, device, std::move(memory), compute_stream,
                                             absl::StrCat("cuda:", device.device, " (", properties.name, ")"));
}

}  // namespace shardstep
