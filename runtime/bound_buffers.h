#ifndef SHARDSTEP_RUNTIME_BOUND_BUFFERS_H_
#define SHARDSTEP_RUNTIME_BOUND_BUFFERS_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "shardstep/comm/memory.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/shard_layout.h"

namespace shardstep {

/// Memory of the caller that stands in for the library's own weights or gradients of a parameter. No backend can let
/// other ranks read it where it lies, so it is copied.
class BoundBuffers {
 public:
  enum class What { kWeights, kGradient };

  /// `arenas`: what a buffer must not overlap, besides other bound buffers. `memory` must reach all of it.
  BoundBuffers(const ShardLayout* layout, Memory* memory, std::vector<BufferView> arenas);

  /// An empty buffer unbinds. InvalidArgument names the parameter, and why: of another size, not aligned to its dtype,
  /// memory that the device does not reach, an overlap with another buffer. Nothing has changed then.
  absl::Status Bind(What what, int p, BufferView buffer);
  /// Of p, empty when none is bound.
  BufferView bound(What what, int p) const { return buffers_[static_cast<int>(what)][p]; }
  /// "gradient of "w"": everything bound, hence copied.
  std::vector<std::string> Copied() const;

 private:
  absl::Status Check(What what, int p, BufferView buffer) const;

  const ShardLayout* layout_;
  Memory* memory_;
  std::vector<BufferView> arenas_;
  std::vector<BufferView> buffers_[2];  ///< by What, by parameter
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_BOUND_BUFFERS_H_
