#ifndef SHARDSTEP_COMM_CUDA_HOST_BRIDGE_H_
#define SHARDSTEP_COMM_CUDA_HOST_BRIDGE_H_

#include <cstdint>
#include <memory>

#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/comm/host_stream.h"
#include "shardstep/comm/memory.h"

namespace shardstep {

/// Host work in the order of a CUDA stream, work that may block: a worker thread waits until the stream has come to it,
/// does it, and lets the stream go on by a word in pinned memory. So neither the caller nor the runtime's own callback
/// thread ever blocks. One bridge for each CUDA stream that needs one: works of one bridge are done in order, of
/// several at the same time.
///
/// When work fails its status becomes the sticky error of the bridge and of the CUDA stream, later works are not done,
/// and the stream goes on all the same: whatever follows reads what the work has left. Not to be captured into a graph.
class HostBridge {
 public:
  /// `memory` outlives the bridge.
  static absl::StatusOr<std::unique_ptr<HostBridge>> Create(const CudaDeviceRef& device, Memory& memory);
  /// Finishes what was enqueued, and waits until the stream has gone on.
  ~HostBridge();

  /// Enqueues `work` on `stream`, always the same one, which outlives the bridge. `name` must outlive the bridge. On
  /// error, the stream's, `work` will not be done.
  absl::Status Enqueue(absl::string_view name, CudaStream& stream, HostStream::Work work);
  absl::Status status() const;

 private:
  class Impl;
  explicit HostBridge(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_CUDA_HOST_BRIDGE_H_
