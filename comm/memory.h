#ifndef SHARDSTEP_COMM_MEMORY_H_
#define SHARDSTEP_COMM_MEMORY_H_

#include <cstdint>

#include "shardstep/comm/buffer.h"
#include "shardstep/comm/status.h"

namespace shardstep {

/// Where the arrays of one device lie: made at creation, read and written by kernels, and by the host only through
/// Read and Write. Threads: any.
class Memory {
 public:
  virtual ~Memory() = default;

  /// Zero-filled, aligned to 256 bytes at least; its address never changes. ResourceExhausted names `what` and the
  /// size.
  virtual absl::StatusOr<Buffer> Allocate(int64_t size_bytes, absl::string_view what, PageBacking backing) = 0;
  /// Host memory that the device's kernels read and write where it lies: for the few words that both sides need.
  virtual absl::StatusOr<Buffer> AllocateForBoth(int64_t size_bytes, absl::string_view what) = 0;
  /// ResourceExhausted, naming `what`, the bytes it needs and those there are, when `needed_bytes` are not available.
  virtual absl::Status CheckAvailable(int64_t needed_bytes, absl::string_view what) = 0;

  /// Copy between this memory (`from`; `to`) and the host's. Block until done; they wait for no stream: whoever calls
  /// has waited. What is read and written may be host memory of this process too, if it is this memory's own.
  virtual absl::Status Read(const void* from, void* to, int64_t size_bytes) = 0;
  virtual absl::Status Write(const void* from, void* to, int64_t size_bytes) = 0;

  /// Whether kernels of this device may use all of `buffer`, somebody else's.
  virtual bool Reaches(BufferView buffer) = 0;
};

/// The memory of CPUs: what Allocate makes is a Buffer of comm/buffer.h, Read and Write are copies.
Memory& HostMemory();

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_MEMORY_H_
