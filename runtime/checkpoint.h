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
#include "shardstep/optimizer/update_rule.h"
#include "shardstep/runtime/state_access.h"

namespace shardstep {

class FileSystem;

/// What a checkpoint says about a parameter besides what the layout does.
struct CheckpointParameterInfo {
  UpdateKind update;
  bool frozen = false;             ///< now; its moments are not saved
  int64_t begin_applied_step = 0;  ///< applied steps when its state began
};

/// What a checkpoint holds besides arrays. Equal on every rank.
struct CheckpointInfo {
  int64_t step = 0;  ///< names the checkpoint; below 10^12
  int64_t applied_steps = 0;
  int64_t skipped_steps = 0;
  int64_t consecutive_skips = 0;
  int64_t sum_group = 1;
  std::vector<CheckpointParameterInfo> parameters;  ///< by parameter of the layout
  std::vector<std::string> options;                 ///< DescribeOptions, to show; a load does not enforce them
  std::string caller_state;                         ///< opaque; rank 0's is saved
  /// By StateKind, of the whole model. A save verifies them against what it writes.
  std::vector<Digest> digests;
};

/// What there is now, for a load to compare with. Equal on every rank.
struct CheckpointTarget {
  absl::Span<const CheckpointParameterInfo> parameters;  ///< by parameter of the layout; begin_applied_step is not read
  int64_t sum_group = 1;
};

struct CheckpointPolicy {
  int keep = 3;                                 ///< newest whole checkpoints to keep, at least 1
  int64_t chunk_bytes = 4 << 20;                ///< checksummed unit of a save; a multiple of 64, at most 2^30
  absl::Duration deadline = absl::Minutes(10);  ///< of each agreement of all ranks, which waits for the slowest one
  FileSystem* file_system = nullptr;            ///< for tests, one per rank; nullptr: the real one
};

/// Writes `<directory>/step-<step>` in the format of docs/checkpoint_format.md: shards first, manifest last, in a
/// temporary directory that is synced and renamed into place; then removes old checkpoints. Makes `directory` when it
/// is missing. An existing checkpoint of the same step is replaced at once.
///
/// Collective; every rank returns OK or the error of the lowest failing rank, which names it, the file and the system's
/// reason. After an error the last good checkpoint is untouched and no temporary directory is left, unless the error
/// says that the checkpoint was saved and only removing older ones failed. FailedPrecondition, and nothing was written,
/// names two ranks whose arguments differ. Extra memory: one chunk, and the manifest.
absl::Status SaveCheckpoint(const std::string& directory, const ShardLayout& layout, const StateAccess& state,
                            const CheckpointInfo& info, Rendezvous& rendezvous, const CheckpointPolicy& policy);

/// Reads the newest whole checkpoint into `state` (any world size, any layout of the same parameters); digests are by
/// StateKind, of what `state` holds then. Every chunk is verified before its bytes are used, and the digests of all
/// that was read afterwards. Extra memory: one chunk of the size that the save chose, the manifest, and one shard's
/// header.
///
/// Every master is saved as fp32, so an fp32 and a split master convert to each other, bit by bit; one that is saved
/// without a master becomes either. InvalidArgument lists every parameter that is missing, unknown, reshaped or
/// retyped, tied differently, whose rule differs, or that has a master in the file and none here. A parameter that is
/// frozen here needs no moments, and no master; one that was frozen there and is not here begins with zero moments and
/// begin_applied_step = applied_steps. Both add a line to `warnings`. So does another sum_group.
///
/// Collective and agreed: all ranks load the same step. A damaged checkpoint adds a line to `warnings` on every rank
/// (step, file, chunk, why) and the next older one is tried. NotFound when there is none at all; DataLoss, naming the
/// newest and why, when there are some and all are damaged; FailedPrecondition when the newest one needs a newer
/// library. After an error the state holds an undefined mixture and must not be used. Padding is left alone.
absl::StatusOr<CheckpointInfo> LoadCheckpoint(const std::string& directory, const ShardLayout& layout,
                                              const StateAccess& state, const CheckpointTarget& target,
                                              Rendezvous& rendezvous, const CheckpointPolicy& policy,
                                              std::vector<std::string>* warnings);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_CHECKPOINT_H_
