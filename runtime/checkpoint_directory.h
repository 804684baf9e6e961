#ifndef SHARDSTEP_RUNTIME_CHECKPOINT_DIRECTORY_H_
#define SHARDSTEP_RUNTIME_CHECKPOINT_DIRECTORY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "shardstep/comm/status.h"
#include "shardstep/runtime/durable_file.h"
#include "shardstep/runtime/manifest.h"

namespace shardstep {

inline constexpr int64_t kMaxCheckpointStep = 999'999'999'999;

/// The directory that holds the checkpoints of one run: names, the rename that makes one appear, what is removed when.
/// One rank works with it at a time, but for reading.
class CheckpointDirectory {
 public:
  /// NotFound when there is none.
  static absl::StatusOr<CheckpointDirectory> Open(FileSystem& file_system, const std::string& path);

  /// "step-000000000120"
  static std::string NameOf(int64_t step);
  /// Where a save of that step writes until Commit: ".saving-step-000000000120".
  static std::string SavingNameOf(int64_t step);

  /// Steps of the checkpoints, whole or damaged, newest first.
  absl::StatusOr<std::vector<int64_t>> Steps() const;
  /// An entry of this directory; DataLoss when it is missing or no directory.
  absl::StatusOr<DurableFile> OpenEntry(const std::string& name) const;
  /// The bytes of an entry's manifest.
  absl::StatusOr<std::string> ReadManifestBytes(const std::string& name) const;
  /// OK when the manifest of an entry is sound, is of `step`, and every file has its size.
  absl::Status Verify(const std::string& name, int64_t step) const;

  /// Removes what saves and removals that were cut off have left.
  absl::Status RemoveLeftovers() const;
  absl::Status MakeSaving(int64_t step) const;
  /// Renames the synced directory of a save into place, and syncs. After an error it is where it was before. What it
  /// replaced is a leftover.
  absl::Status Commit(int64_t step) const;
  /// Removes the directory of a save that failed.
  absl::Status Discard(int64_t step) const;
  /// Removes checkpoints older than the newest `keep` whole ones among those up to `newest_step`. Nothing happens when
  /// that one itself is not whole, and what this library cannot judge stays.
  absl::Status Retain(int64_t newest_step, int keep) const;

 private:
  explicit CheckpointDirectory(DurableFile directory);
  absl::Status Replace(int64_t step) const;
  absl::Status Rename(const std::string& from, const std::string& to) const;
  absl::Status Remove(int64_t step) const;

  DurableFile directory_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_CHECKPOINT_DIRECTORY_H_
