#include "shardstep/comm/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "shardstep/comm/host_memory.h"

namespace shardstep {
namespace {

class MemoryOfHost : public Memory {
 public:
  absl::StatusOr<Buffer> Allocate(int64_t size_bytes, absl::string_view what, PageBacking backing) override {
    return Buffer::Allocate(size_bytes, what, backing);
  }
  absl::StatusOr<Buffer> AllocateForBoth(int64_t size_bytes, absl::string_view what) override {
    return Buffer::Allocate(size_bytes, what);
  }
  absl::Status CheckAvailable(int64_t needed_bytes, absl::string_view what) override {
    return CheckMemoryAvailable(needed_bytes, what);
  }
  absl::Status Read(const void* from, void* to, int64_t size_bytes) override { return Copy(from, to, size_bytes); }
  absl::Status Write(const void* from, void* to, int64_t size_bytes) override { return Copy(from, to, size_bytes); }

  // Memory that was freed may be gone.
  bool Reaches(BufferView buffer) override {
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t begin = reinterpret_cast<uintptr_t>(buffer.data) / page * page;
    const uintptr_t end = reinterpret_cast<uintptr_t>(buffer.data) + static_cast<uintptr_t>(buffer.size_bytes);
    std::vector<unsigned char> resident((end - begin + page - 1) / page);
    return mincore(reinterpret_cast<void*>(begin), end - begin, resident.data()) == 0;
  }

 private:
  static absl::Status Copy(const void* from, void* to, int64_t size_bytes) {
    if (size_bytes > 0) std::memcpy(to, from, static_cast<size_t>(size_bytes));
    return absl::OkStatus();
  }
};

}  // namespace

Memory& HostMemory() {
  static MemoryOfHost memory;
  return memory;
}

}  // namespace shardstep
