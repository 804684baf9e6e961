#ifndef SHARDSTEP_RUNTIME_COMPUTE_DEVICE_H_
#define SHARDSTEP_RUNTIME_COMPUTE_DEVICE_H_

#include <memory>

#include "absl/strings/string_view.h"
#include "shardstep/comm/memory.h"
#include "shardstep/comm/status.h"
#include "shardstep/comm/stream.h"

namespace shardstep {

class ShardKernels;

/// What a rank's optimizer computes on: memory, queues and kernels of one kind. Nothing above it asks which. Outlives
/// what it makes.
class ComputeDevice {
 public:
  virtual ~ComputeDevice() = default;
  /// To show: "cpu", "cuda:0 (NVIDIA H100)".
  virtual absl::string_view name() const = 0;
  virtual Memory& memory() = 0;
  /// All ranks of a host allocate from it; otherwise each rank from its own.
  virtual bool shares_memory() const = 0;
  /// The stream that the trainer computes on: its own thread, or a CUDA stream that it gave. One per optimizer.
  virtual absl::StatusOr<std::unique_ptr<Stream>> CallerStream() = 0;
  /// A stream of the optimizer's own; `name` must outlive it.
  virtual absl::StatusOr<std::unique_ptr<Stream>> CreateStream(absl::string_view name) = 0;
  /// `threads`: of the host, where kernels run on them.
  virtual absl::StatusOr<std::unique_ptr<ShardKernels>> CreateKernels(int threads) = 0;

  /// What streams are given can be captured into graphs.
  virtual bool captures() const = 0;
  /// All that was enqueued on `stream`, made here, is known to have finished: later waits for it are none.
  virtual void Settle(Stream& stream) = 0;
  /// What the calling thread enqueues in between has this name in a profiler.
  virtual void BeginRange(const char* name) = 0;
  virtual void EndRange() = 0;
};

/// The CPUs of this host.
std::unique_ptr<ComputeDevice> CreateHostDevice();

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_COMPUTE_DEVICE_H_
