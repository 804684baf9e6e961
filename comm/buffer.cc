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
  if (size_bytes == 0) return Buffer();
  // Touching more than there is ends in SIGKILL, not in an error.
  SHARDSTEP_RETURN_IF_ERROR(CheckMemoryAvailable(size_bytes, what));
  void* data =
      mmap(nullptr, static_cast<size_t>(size_bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat(what, ": no memory for ", size_bytes, " bytes: ", std::strerror(errno)));
  }
  Buffer buffer({static_cast<std::byte*>(data), size_bytes},
                [](BufferView memory) { munmap(memory.data, static_cast<size_t>(memory.size_bytes)); });
  if (backing == PageBacking::kOnCreation) {
    SHARDSTEP_RETURN_IF_ERROR(PopulatePages(buffer.view(), PageAccess::kWrite, what));
  } else {
    AdviseHugePages(buffer.view());
  }
  return buffer;
}

Buffer::Buffer(Buffer&& other) noexcept
    : memory_(std::exchange(other.memory_, {})), release_(std::move(other.release_)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(memory_, other.memory_);
  std::swap(release_, other.release_);
  return *this;
}

Buffer::~Buffer() {
  if (memory_.data != nullptr) release_(memory_);
}

}  // namespace shardstep
