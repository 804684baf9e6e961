#include "shardstep/runtime/durable_file.h"

#include <dirent.h>
#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <system_error>
#include <utility>

namespace shardstep {
namespace {

absl::StatusCode CodeOf(int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::StatusCode::kNotFound;
    case EACCES:
    case EPERM:
    case EROFS:
    case EEXIST:
    case ENOTEMPTY:
    case ELOOP:
    case EISDIR:
    case EBUSY:
      return absl::StatusCode::kPermissionDenied;
    case EINVAL:
    case ENAMETOOLONG:
      return absl::StatusCode::kInvalidArgument;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EMLINK:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return absl::StatusCode::kResourceExhausted;
    default:
      return absl::StatusCode::kUnknown;
  }
}

// A read that fails so says that the bytes are lost: the device cannot give them back, or the file system has verified
// them itself.
bool IsLostBytes(int error) { return error == EIO || error == EBADMSG || error == EUCLEAN; }

}  // namespace

absl::Status ErrnoStatus(int error, absl::string_view operation, absl::string_view path) {
  return absl::Status(CodeOf(error), absl::StrCat(operation, " ", path, ": ", std::generic_category().message(error)));
}

DurableFile::DurableFile(FileSystem* file_system, int descriptor, std::string path)
    : file_system_(file_system), descriptor_(descriptor), path_(std::move(path)) {}

DurableFile::DurableFile(DurableFile&& other) noexcept
    : file_system_(other.file_system_),
      descriptor_(std::exchange(other.descriptor_, -1)),
      path_(std::move(other.path_)) {}

DurableFile& DurableFile::operator=(DurableFile&& other) noexcept {
  std::swap(file_system_, other.file_system_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(path_, other.path_);
  return *this;
}

DurableFile::~DurableFile() {
  if (descriptor_ >= 0) file_system_->Close(descriptor_);
}

std::string DurableFile::PathOf(const std::string& name) const { return absl::StrCat(path_, "/", name); }

absl::StatusOr<DurableFile> DurableFile::OpenDirectory(FileSystem& file_system, const std::string& path) {
  const int descriptor = file_system.Open(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  if (descriptor < 0) return ErrnoStatus(errno, "open", path);
  return DurableFile(&file_system, descriptor, path);
}

absl::StatusOr<DurableFile> DurableFile::OpenSubdirectory(const std::string& name) const {
  const int descriptor =
      file_system_->Open(descriptor_, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
  if (descriptor < 0) return ErrnoStatus(errno, "open", PathOf(name));
  return DurableFile(file_system_, descriptor, PathOf(name));
}

absl::StatusOr<DurableFile> DurableFile::CreateFile(const std::string& name) const {
  int descriptor;
  do {
    descriptor =
        file_system_->Open(descriptor_, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
  } while (descriptor < 0 && errno == EINTR);
  if (descriptor < 0) return ErrnoStatus(errno, "create", PathOf(name));
  return DurableFile(file_system_, descriptor, PathOf(name));
}

absl::StatusOr<DurableFile> DurableFile::OpenFile(const std::string& name) const {
  // O_NONBLOCK: a fifo in the place of a file must not block the open; it means nothing for a regular one.
  int descriptor;
  do {
    descriptor = file_system_->Open(descriptor_, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0);
  } while (descriptor < 0 && errno == EINTR);
  if (descriptor < 0) {
    const int error = errno;
    const absl::Status status = ErrnoStatus(error, "open", PathOf(name));
    if (error != ENOENT && error != ELOOP && error != ENXIO && !IsLostBytes(error)) return status;
    return absl::DataLossError(status.message());
  }
  DurableFile file(file_system_, descriptor, PathOf(name));
  struct stat info;
  if (file_system_->Stat(descriptor, &info) != 0) return ErrnoStatus(errno, "stat", file.path());
  if (!S_ISREG(info.st_mode)) return absl::DataLossError(absl::StrCat(file.path(), ": not a regular file"));
  return file;
}

absl::Status DurableFile::Write(absl::Span<const char> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = file_system_->Write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus(errno, "write", path_);
    // A write that makes no progress and gives no reason would loop for ever.
    if (written == 0) return ErrnoStatus(ENOSPC, "write", path_);
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status DurableFile::Read(int64_t offset, absl::Span<char> bytes) const {
  while (!bytes.empty()) {
    const ssize_t got = file_system_->Read(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      const int error = errno;
      const absl::Status status = ErrnoStatus(error, "read", path_);
      return IsLostBytes(error) ? absl::DataLossError(status.message()) : status;
    }
    if (got == 0) return absl::DataLossError(absl::StrCat(path_, ": ends at byte ", offset));
    offset += got;
    bytes.remove_prefix(static_cast<size_t>(got));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> DurableFile::SizeBytes() const {
  struct stat info;
  if (file_system_->Stat(descriptor_, &info) != 0) return ErrnoStatus(errno, "stat", path_);
  return int64_t{info.st_size};
}

absl::Status DurableFile::Sync() const {
  if (file_system_->Sync(descriptor_) != 0) return ErrnoStatus(errno, "sync", path_);
  return absl::OkStatus();
}

absl::Status DurableFile::Close() {
  // Linux releases the descriptor even when close is interrupted, so EINTR is neither an error nor a reason to retry.
  if (file_system_->Close(std::exchange(descriptor_, -1)) != 0 && errno != EINTR) {
    return ErrnoStatus(errno, "close", path_);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> DurableFile::List() const {
  // A descriptor of its own: fdopendir takes one over, and its position is nobody else's.
  const int descriptor = file_system_->Open(descriptor_, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  if (descriptor < 0) return ErrnoStatus(errno, "open", path_);
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(fdopendir(descriptor), closedir);
  if (stream == nullptr) {
    const absl::Status status = ErrnoStatus(errno, "list", path_);
    file_system_->Close(descriptor);
    return status;
  }
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = readdir(stream.get())) {
    if (std::strcmp(entry->d_name, ".") != 0 && std::strcmp(entry->d_name, "..") != 0) names.push_back(entry->d_name);
    errno = 0;
  }
  if (errno != 0) return ErrnoStatus(errno, "list", path_);
  std::sort(names.begin(), names.end());
  return names;
}

absl::Status DurableFile::RemoveFile(const std::string& name) const {
  if (file_system_->Remove(descriptor_, name.c_str(), 0) != 0) return ErrnoStatus(errno, "remove", PathOf(name));
  return absl::OkStatus();
}

absl::Status DurableFile::RemoveDirectory(const std::string& name) const {
  absl::StatusOr<DurableFile> directory = OpenSubdirectory(name);
  // A plain file or a link in the place of the directory.
  if (!directory.ok()) return RemoveFile(name);
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> files, directory->List());
  for (const std::string& file : files) SHARDSTEP_RETURN_IF_ERROR(directory->RemoveFile(file));
  if (file_system_->Remove(descriptor_, name.c_str(), AT_REMOVEDIR) != 0) {
    return ErrnoStatus(errno, "remove", PathOf(name));
  }
  return absl::OkStatus();
}

absl::Status MakeDirectories(FileSystem& file_system, const std::string& path) {
  absl::StatusOr<DurableFile> existing = DurableFile::OpenDirectory(file_system, path);
  if (existing.ok() || existing.status().code() != absl::StatusCode::kNotFound) return existing.status();
  const size_t last = path.find_last_not_of('/');
  if (last == std::string::npos) return existing.status();
  const size_t slash = path.rfind('/', last);
  const std::string parent_path = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  SHARDSTEP_RETURN_IF_ERROR(MakeDirectories(file_system, parent_path));
  SHARDSTEP_ASSIGN_OR_RETURN(DurableFile parent, DurableFile::OpenDirectory(file_system, parent_path));
  if (file_system.MakeDirectory(AT_FDCWD, path.c_str()) != 0) return ErrnoStatus(errno, "make directory", path);
  return parent.Sync();
}

}  // namespace shardstep
