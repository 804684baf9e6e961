#include "shardstep/comm/host_stream.h"
#include "shardstep/optimizer/shard_kernels.h"
#include "shardstep/runtime/compute_device.h"

namespace shardstep {
namespace {

class HostDevice : public ComputeDevice {
 public:
  absl::string_view name() const override { return "cpu"; }
  Memory& memory() override { return HostMemory(); }
  bool shares_memory() const override { return true; }
  absl::StatusOr<std::unique_ptr<Stream>> CallerStream() override { return std::make_unique<InlineStream>(); }
  absl::StatusOr<std::unique_ptr<Stream>> CreateStream(absl::string_view) override {
    return std::make_unique<ThreadStream>();
  }
  absl::StatusOr<std::unique_ptr<ShardKernels>> CreateKernels(int threads) override {
    return CreateCpuShardKernels(threads);
  }
  bool captures() const override { return false; }
  void Settle(Stream&) override {}
  void BeginRange(const char*) override {}
  void EndRange() override {}
};

}  // namespace

std::unique_ptr<ComputeDevice> CreateHostDevice() { return std::make_unique<HostDevice>(); }

}  // namespace shardstep
