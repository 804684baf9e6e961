#ifndef SHARDSTEP_RUNTIME_CHECKPOINT_H_
#define SHARDSTEP_RUNTIME_CHECKPOINT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "shardstep/comm/rendezvous.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/digest.h"
#include "shardstep/optimizer/shard_layout.h"

namespace shardstep {

/// One sharded fp32 array of this rank (layout.state_elements() elements) and its name in the file ("master",
/// "first_moment", "second_moment").
struct CheckpointArray {
  std::string kind;
  float* data = nullptr;
};

/// What a checkpoint holds besides arrays.
struct CheckpointInfo {
  int64_t step = 0;
  int64_t applied_steps = 0;
  int64_t skipped_steps = 0;
  int64_t consecutive_skips = 0;
  std::vector<std::string> options;  ///< DescribeOptions, to show; a load does not enforce them
  std::string caller_state;          ///< opaque
  std::vector<Digest> digests;       ///< of each array of the whole model, in the order of the arrays
};

struct CheckpointPolicy {
  int keep = 3;                                 ///< newest whole checkpoints to keep, at least 1
  int64_t chunk_bytes = 4 << 20;                ///< checksummed unit, and the extra memory of a load
  absl::Duration deadline = absl::Minutes(10);  ///< for the agreement of all ranks
};

/// Writes `<directory>/step-<step>` in the format of docs/checkpoint_format.md: shards first, manifest last, in a
/// temporary directory that is synced and renamed into place. Collective; every rank returns OK or the error of the
/// lowest failing rank, and after an error the last good checkpoint is untouched.
absl::Status SaveCheckpoint(const std::string& directory, const ShardLayout& layout,
                            absl::Span<const CheckpointArray> arrays, const CheckpointInfo& info,
                            Rendezvous& rendezvous, const CheckpointPolicy& policy);

/// Reads the newest whole checkpoint into `arrays` (same kinds, any world size). Every chunk is verified before it is
/// used, and the digests afterwards. Collective and agreed: all ranks load the same step. A damaged checkpoint adds a
/// line to `warnings` (file, chunk, why) and the next older one is tried; NotFound when none is whole;
/// InvalidArgument lists every parameter that is missing, unknown or of another shape.
absl::StatusOr<CheckpointInfo> LoadCheckpoint(const std::string& directory, const ShardLayout& layout,
                                              absl::Span<const CheckpointArray> arrays, Rendezvous& rendezvous,
                                              const CheckpointPolicy& policy, std::vector<std::string>* warnings);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_CHECKPOINT_H_
