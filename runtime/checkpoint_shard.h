#ifndef SHARDSTEP_RUNTIME_CHECKPOINT_SHARD_H_
#define SHARDSTEP_RUNTIME_CHECKPOINT_SHARD_H_

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/digest.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/runtime/durable_file.h"
#include "shardstep/runtime/manifest.h"
#include "shardstep/runtime/state_access.h"

namespace shardstep {

/// A run of elements of one parameter that a rank owns, and where it keeps them.
struct OwnedRun {
  int parameter = 0;  ///< of the layout; never a tied one
  int64_t begin_element = 0;
  int64_t end_element = 0;
  int bucket = 0;
  int64_t shard_begin_element = 0;
};

/// All runs of `rank`, by parameter and element.
std::vector<OwnedRun> OwnedRuns(const ShardLayout& layout, int rank);

/// What a piece of a run passes through on its way between state and file. Whole blocks, so that a piece can be hashed,
/// and few enough that it stays in a first-level cache.
class PieceBuffer {
 public:
  static constexpr int64_t kElements = 4 * ShardLayout::kBlockElements;

  absl::Span<float> For(const OwnedRun& piece) {
    return absl::MakeSpan(values_).first(static_cast<size_t>(piece.end_element - piece.begin_element));
  }

 private:
  std::vector<float> values_ = std::vector<float>(kElements);
};

/// Calls `visit` for the pieces of a run, each of at most PieceBuffer::kElements.
void ForEachPiece(const OwnedRun& run, absl::FunctionRef<void(const OwnedRun& piece)> visit);

struct WrittenShard {
  ManifestFile file;            ///< what the manifest must say about it
  std::vector<Digest> digests;  ///< by StateKind, of what was written
};

/// Writes and syncs the shard of `rank` into `directory`, from the tables, step and chunk size of `manifest` (its files
/// are not looked at), whose parameters are those of the layout.
absl::StatusOr<WrittenShard> WriteShard(const DurableFile& directory, const Manifest& manifest, int rank,
                                        int world_size, absl::Span<const OwnedRun> runs, const StateAccess& state);

/// One shard of a checked manifest, to read: each chunk that is needed is read once, if reads ascend, and verified as a
/// whole before any of its bytes are used. Holds one chunk. DataLoss names file, chunk and reason.
class ShardReader {
 public:
  /// Compares size and header of shard `index`. `manifest` must outlive the reader.
  static absl::StatusOr<ShardReader> Open(const DurableFile& directory, const Manifest& manifest, int index);

  using UseValues = absl::FunctionRef<void(const OwnedRun& piece, absl::Span<const float> values)>;
  /// Hands out the values of `run`, which begin at `begin_byte` of the file, in pieces as ForEachPiece makes them.
  absl::Status Read(int64_t begin_byte, const OwnedRun& run, UseValues use);

 private:
  ShardReader(DurableFile file, const ManifestFile* described, int64_t chunk_bytes);
  absl::Status ReadBytes(int64_t begin_byte, absl::Span<char> bytes);
  absl::Status LoadChunk(int64_t index);

  DurableFile file_;
  const ManifestFile* described_;
  int64_t chunk_bytes_;
  std::vector<char> chunk_;
  int64_t loaded_ = -1;  // index of the chunk in chunk_
  int64_t loaded_bytes_ = 0;
  PieceBuffer buffer_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_CHECKPOINT_SHARD_H_
