#include "shardstep/comm/buffer.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "shardstep/comm/host_memory.h"

namespace shardstep {

absl::StatusOr<Buffer> Buffer::Allocate(int64_t size_bytes, absl::string_view what, PageBacking backing) {
  if (size_bytes < 0) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": size_bytes = ", size_bytes, " is negative"));
  }
  Buffer buffer;
  if (size_bytes == 0) return buffer;
  // Touching more than there is ends in SIGKILL, not in an error.
  SHARDSTEP_RETURN_IF_ERROR(CheckMemoryAvailable(size_bytes, what));
  void* data =
      mmap(nullptr, static_cast<size_t>(size_bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat(what, ": no memory for ", size_bytes, " bytes: ", std::strerror(errno)));
  }
  buffer.data_ = static_cast<std::byte*>(data);
  buffer.size_bytes_ = size_bytes;
  if (backing == PageBacking::kOnCreation) {
    SHARDSTEP_RETURN_IF_ERROR(PopulatePages(buffer.view(), PageAccess::kWrite, what));
  } else {
    AdviseHugePages(buffer.view());
  }
  return buffer;
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_bytes_(std::exchange(other.size_bytes_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

Buffer::~Buffer() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(size_bytes_));
}

}  // namespace shardstep
