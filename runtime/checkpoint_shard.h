#ifndef SHARDSTEP_RUNTIME_CHECKPOINT_SHARD_H_
#define SHARDSTEP_RUNTIME_CHECKPOINT_SHARD_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/digest.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/runtime/checkpoint.h"
#include "shardstep/runtime/durable_file.h"
#include "shardstep/runtime/manifest.h"

namespace shardstep {

/// A run of elements of one parameter that a rank owns, and where its state arrays keep it.
struct OwnedRun {
  int parameter = 0;
  int64_t begin_element = 0;
  int64_t end_element = 0;
  int64_t state_begin_element = 0;
};

/// All runs of `rank`, by parameter and element.
std::vector<OwnedRun> OwnedRuns(const ShardLayout& layout, int rank);

/// The keys of a shard with `runs`, in the order of its data: runs that continue each other are one range.
std::vector<ManifestRange> RangesOf(absl::Span<const OwnedRun> runs, int kinds);

/// One digest per array of what `runs` hold. Parameter p is hashed as number parameter_numbers[p].
std::vector<Digest> DigestsOf(absl::Span<const OwnedRun> runs, absl::Span<const CheckpointArray> arrays,
                              absl::Span<const int> parameter_numbers);

/// Writes and syncs the shard of `rank` into `directory`, from the tables, step and chunk size of `manifest` (its files
/// are not looked at); kind k of the manifest is arrays[k]. What the manifest must say about it.
absl::StatusOr<ManifestFile> WriteShard(const DurableFile& directory, const Manifest& manifest, int rank,
                                        int world_size, absl::Span<const OwnedRun> runs,
                                        absl::Span<const CheckpointArray> arrays);

/// Bytes [begin_byte, begin_byte + bytes) of a shard go to `destination`.
struct ShardCopy {
  int64_t begin_byte = 0;
  int64_t bytes = 0;
  char* destination = nullptr;
};

/// Reads shard `index` of a checked manifest: compares size and header, then executes `copies` (ascending). Each chunk
/// that is needed is read once and verified as a whole before any of its bytes are used. DataLoss names file, chunk
/// and reason.
absl::Status ReadShard(const DurableFile& directory, const Manifest& manifest, int index,
                       absl::Span<const ShardCopy> copies);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_CHECKPOINT_SHARD_H_
