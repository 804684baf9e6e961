#include "shardstep/comm/shm/memfd_region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace shardstep {
namespace {

class FileDescriptor {
 public:
  explicit FileDescriptor(int value) : value_(value) {}
  FileDescriptor(FileDescriptor&& other) noexcept : value_(std::exchange(other.value_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&&) = delete;
  ~FileDescriptor() {
    if (value_ >= 0) close(value_);
  }
  int value() const { return value_; }

 private:
  int value_;
};

class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& other) noexcept : view_(std::exchange(other.view_, {})) {}
  Mapping& operator=(Mapping&&) = delete;
  ~Mapping() {
    if (view_.data != nullptr) munmap(view_.data, static_cast<size_t>(view_.size_bytes));
  }
  BufferView view() const { return view_; }

  static absl::StatusOr<Mapping> Map(int descriptor, int64_t size_bytes, PageAccess access, PageBacking backing,
                                     absl::string_view what) {
    const int protection = access == PageAccess::kWrite ? PROT_READ | PROT_WRITE : PROT_READ;
    void* data = mmap(nullptr, static_cast<size_t>(size_bytes), protection, MAP_SHARED, descriptor, 0);
    if (data == MAP_FAILED) {
      return absl::ResourceExhaustedError(
          absl::StrCat(what, ": cannot map ", size_bytes, " bytes: ", std::strerror(errno)));
    }
    Mapping mapping;
    mapping.view_ = {static_cast<std::byte*>(data), size_bytes};
    if (backing == PageBacking::kOnCreation) {
      SHARDSTEP_RETURN_IF_ERROR(PopulatePages(mapping.view_, access, what));
    } else {
      AdviseHugePages(mapping.view_);
    }
    return mapping;
  }

 private:
  BufferView view_;
};

class OpenedRegion : public Region {
 public:
  explicit OpenedRegion(Mapping mapping) : mapping_(std::move(mapping)) {}
  BufferView view() const override { return mapping_.view(); }

 private:
  const Mapping mapping_;
};

class MemfdRegion : public OwnedRegion {
 public:
  MemfdRegion(FileDescriptor descriptor, ino_t inode, Mapping mapping)
      : descriptor_(std::move(descriptor)), inode_(inode), mapping_(std::move(mapping)) {}

  BufferView view() const override { return mapping_.view(); }
  std::string Export(int /*peers*/) override { return absl::StrCat(getpid(), " ", descriptor_.value(), " ", inode_); }

 private:
  const FileDescriptor descriptor_;
  const ino_t inode_;
  const Mapping mapping_;
};

absl::Status SystemError(absl::string_view what, absl::string_view call, int64_t size_bytes) {
  return absl::ResourceExhaustedError(
      absl::StrCat(what, ": ", call, " of ", size_bytes, " bytes: ", std::strerror(errno)));
}

// Growing a file past this limit would end the process by SIGXFSZ.
absl::Status CheckFileSizeLimit(int64_t size_bytes, absl::string_view what) {
  rlimit limit{};
  if (getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
      static_cast<uint64_t>(size_bytes) <= limit.rlim_cur) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(
      absl::StrCat(what, ": needs ", size_bytes, " bytes, the limit on file size (ulimit -f) is ", limit.rlim_cur));
}

// Before any page is touched: a full memory then is an error of this call and not a signal later.
absl::Status Reserve(int descriptor, int64_t size_bytes, absl::string_view what) {
  SHARDSTEP_RETURN_IF_ERROR(CheckFileSizeLimit(size_bytes, what));
  SHARDSTEP_RETURN_IF_ERROR(CheckMemoryAvailable(size_bytes, what));
  if (ftruncate(descriptor, size_bytes) != 0) return SystemError(what, "ftruncate", size_bytes);
  if (fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return SystemError(what, "sealing", size_bytes);
  }
  return absl::OkStatus();
}

absl::Status OpenError(absl::string_view what, absl::string_view path) {
  const std::string message = absl::StrCat(what, ": ", path, ": ", std::strerror(errno));
  if (errno == ENOENT) return absl::NotFoundError(message);
  if (errno == EACCES || errno == EPERM) return absl::PermissionDeniedError(message);
  return absl::ResourceExhaustedError(message);
}

class MemfdRegionProvider : public RegionProvider {
 public:
  absl::StatusOr<std::unique_ptr<OwnedRegion>> Create(int64_t size_bytes, PageBacking backing,
                                                      absl::string_view what) override {
    FileDescriptor descriptor(memfd_create("shardstep", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (descriptor.value() < 0) return SystemError(what, "memfd_create", size_bytes);
    SHARDSTEP_RETURN_IF_ERROR(Reserve(descriptor.value(), size_bytes, what));
    SHARDSTEP_ASSIGN_OR_RETURN(Mapping mapping,
                               Mapping::Map(descriptor.value(), size_bytes, PageAccess::kWrite, backing, what));
    struct stat file {};
    if (fstat(descriptor.value(), &file) != 0) return SystemError(what, "fstat", size_bytes);
    return std::make_unique<MemfdRegion>(std::move(descriptor), file.st_ino, std::move(mapping));
  }

  absl::StatusOr<std::unique_ptr<Region>> Open(absl::string_view handle, int64_t size_bytes, PageAccess access,
                                               PageBacking backing, absl::string_view what) override {
    const std::vector<absl::string_view> parts = absl::StrSplit(handle, ' ');
    uint64_t inode = 0;
    if (parts.size() != 3 || !absl::SimpleAtoi(parts[2], &inode)) {
      return absl::InternalError(absl::StrCat(what, ": not a handle: ", handle));
    }
    const std::string path = absl::StrCat("/proc/", parts[0], "/fd/", parts[1]);
    const FileDescriptor descriptor(open(path.c_str(), (access == PageAccess::kWrite ? O_RDWR : O_RDONLY) | O_CLOEXEC));
    if (descriptor.value() < 0) return OpenError(what, path);
    struct stat file {};
    if (fstat(descriptor.value(), &file) != 0) return OpenError(what, path);
    if (file.st_ino != inode || file.st_size != size_bytes) {
      return absl::FailedPreconditionError(absl::StrCat(what, ": ", path, " is not what its rank exported (inode ",
                                                        file.st_ino, ", ", file.st_size, " bytes, expected inode ",
                                                        inode, ", ", size_bytes, " bytes)"));
    }
    SHARDSTEP_ASSIGN_OR_RETURN(Mapping mapping, Mapping::Map(descriptor.value(), size_bytes, access, backing, what));
    return std::make_unique<OpenedRegion>(std::move(mapping));
  }
};

}  // namespace

std::unique_ptr<RegionProvider> MakeMemfdRegionProvider() { return std::make_unique<MemfdRegionProvider>(); }

}  // namespace shardstep
