#ifndef SHARDSTEP_COMM_BUFFER_H_
#define SHARDSTEP_COMM_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>

#include "shardstep/comm/status.h"

namespace shardstep {

/// A view of memory that somebody else owns. Half-open [data, data + size_bytes).
struct BufferView {
  std::byte* data = nullptr;
  int64_t size_bytes = 0;

  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data);
  }
};

/// When memory gets its pages: all on creation, so that no step pays a first touch; or each on its first use, so that
/// what is never used costs nothing.
enum class PageBacking { kOnCreation, kOnFirstUse };

/// Owner of zero-filled memory whose address never changes: of the host, or of a device, whoever made it.
class Buffer {
 public:
  using Release = std::function<void(BufferView)>;

  Buffer() = default;
  /// Takes over `memory`, which `release` gives back in the end.
  Buffer(BufferView memory, Release release) : memory_(memory), release_(std::move(release)) {}
  /// Page-aligned host memory; large buffers ask for transparent huge pages. ResourceExhausted, naming `what` and the
  /// size, when the system refuses. kOnCreation: the creating thread touches all pages.
  static absl::StatusOr<Buffer> Allocate(int64_t size_bytes, absl::string_view what,
                                         PageBacking backing = PageBacking::kOnCreation);
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();

  BufferView view() const { return memory_; }
  int64_t size_bytes() const { return memory_.size_bytes; }
  template <typename T>
  T* as() const {
    return memory_.as<T>();
  }

 private:
  BufferView memory_;
  Release release_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_BUFFER_H_
