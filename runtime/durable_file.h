#ifndef SHARDSTEP_RUNTIME_DURABLE_FILE_H_
#define SHARDSTEP_RUNTIME_DURABLE_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/comm/status.h"
#include "shardstep/runtime/file_system.h"

namespace shardstep {

/// The operating system's refusal as a status: "`operation` `path`: <errno text>". Never DataLoss, which says that
/// bytes failed verification: a device error (EIO) and whatever else has no code of its own are Unknown.
absl::Status ErrnoStatus(int error, absl::string_view operation, absl::string_view path);

/// An open file or directory, and its path for messages. Owns the descriptor; moved-from and default ones hold none.
/// `file_system` must outlive it. Errors name the operation, the path and the errno text. One thread at a time.
class DurableFile {
 public:
  DurableFile() = default;
  DurableFile(DurableFile&& other) noexcept;
  DurableFile& operator=(DurableFile&& other) noexcept;
  ~DurableFile();

  /// `path` must exist and may be relative to the working directory; a symbolic link to a directory is followed.
  static absl::StatusOr<DurableFile> OpenDirectory(FileSystem& file_system, const std::string& path);
  /// An entry of this directory; symbolic links are refused.
  absl::StatusOr<DurableFile> OpenSubdirectory(const std::string& name) const;
  /// A new file to write; an existing name is refused.
  absl::StatusOr<DurableFile> CreateFile(const std::string& name) const;
  /// To read. A missing file, a symbolic link, anything but a regular file and lost bytes as in Read are DataLoss.
  absl::StatusOr<DurableFile> OpenFile(const std::string& name) const;

  /// All of `bytes`, after EINTR and short counts too.
  absl::Status Write(absl::Span<const char> bytes);
  /// Exactly bytes.size() bytes from `offset`; DataLoss when the file ends before, or when the device or the file
  /// system says that the bytes are lost (EIO, EBADMSG, EUCLEAN).
  absl::Status Read(int64_t offset, absl::Span<char> bytes) const;
  absl::StatusOr<int64_t> SizeBytes() const;
  /// To disk. Tried once: after a failure the kernel may have dropped what could not be written.
  absl::Status Sync() const;
  /// A descriptor is released whatever the outcome.
  absl::Status Close();

  /// Names in this directory but "." and "..", sorted.
  absl::StatusOr<std::vector<std::string>> List() const;
  /// Removes an entry of this directory; a directory with the files in it (not with further directories).
  absl::Status RemoveFile(const std::string& name) const;
  absl::Status RemoveDirectory(const std::string& name) const;

  FileSystem& file_system() const { return *file_system_; }
  int descriptor() const { return descriptor_; }
  const std::string& path() const { return path_; }

 private:
  DurableFile(FileSystem* file_system, int descriptor, std::string path);
  std::string PathOf(const std::string& name) const;

  FileSystem* file_system_ = nullptr;
  int descriptor_ = -1;
  std::string path_;
};

/// Makes `path` and its missing parents, and syncs each parent that got a new entry.
absl::Status MakeDirectories(FileSystem& file_system, const std::string& path);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_DURABLE_FILE_H_
