#include "shardstep/comm/host_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"

namespace shardstep {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();
constexpr int64_t kHugePagesFromBytes = 4 << 20;

// The header of older C libraries lacks these (Linux 5.14).
#ifdef MADV_POPULATE_WRITE
constexpr int kPopulateRead = MADV_POPULATE_READ;
constexpr int kPopulateWrite = MADV_POPULATE_WRITE;
#else
constexpr int kPopulateRead = 22;
constexpr int kPopulateWrite = 23;
#endif

int64_t KernelEstimateBytes() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  int64_t kib = 0;
  std::string unit;
  while (file >> key >> kib) {
    if (key == "MemAvailable:") return kib * 1024;
    std::getline(file, unit);
  }
  return kUnlimited;
}

int64_t ReadInteger(const std::string& path, int64_t otherwise) {
  std::ifstream file(path);
  std::string text;
  int64_t value = 0;
  return file >> text && absl::SimpleAtoi(text, &value) ? value : otherwise;
}

// Room below the limits of this process's version 2 cgroup and of all those above it.
int64_t CgroupRoomBytes() {
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  int64_t room = kUnlimited;
  while (std::getline(file, line)) {
    absl::string_view path = line;
    if (!absl::ConsumePrefix(&path, "0::")) continue;
    std::string directory(path);
    while (true) {
      const std::string base = "/sys/fs/cgroup" + directory;
      const int64_t limit = ReadInteger(base + "/memory.max", kUnlimited);
      if (limit != kUnlimited) room = std::min(room, limit - ReadInteger(base + "/memory.current", 0));
      const size_t slash = directory.rfind('/');
      if (slash == std::string::npos || directory.size() <= 1) break;
      directory.resize(slash);
    }
  }
  return std::max<int64_t>(room, 0);
}

void TouchPages(BufferView memory, PageAccess access) {
  const int64_t page_bytes = sysconf(_SC_PAGESIZE);
  for (int64_t offset = 0; offset < memory.size_bytes; offset += page_bytes) {
    auto* byte = reinterpret_cast<volatile unsigned char*>(memory.data + offset);
    const unsigned char value = *byte;
    if (access == PageAccess::kWrite) *byte = value;
  }
}

}  // namespace

int64_t AvailableMemoryBytes() { return std::min(KernelEstimateBytes(), CgroupRoomBytes()); }

absl::Status CheckMemoryAvailable(int64_t needed_bytes, absl::string_view what) {
  const int64_t available_bytes = AvailableMemoryBytes();
  if (needed_bytes <= available_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat(what, ": needs ", needed_bytes, " bytes of memory, ", available_bytes, " are available"));
}

void AdviseHugePages(BufferView memory) {
  if (memory.size_bytes < kHugePagesFromBytes) return;
  madvise(memory.data, static_cast<size_t>(memory.size_bytes), MADV_HUGEPAGE);
}

absl::Status PopulatePages(BufferView memory, PageAccess access, absl::string_view what) {
  if (memory.size_bytes == 0) return absl::OkStatus();
  const auto size = static_cast<size_t>(memory.size_bytes);
  AdviseHugePages(memory);
  const int advice = access == PageAccess::kWrite ? kPopulateWrite : kPopulateRead;
  int result = 0;
  do {
    result = madvise(memory.data, size, advice);
  } while (result != 0 && (errno == EINTR || errno == EAGAIN));
  if (result == 0) return absl::OkStatus();
  if (errno == EINVAL) {  // a kernel before 5.14
    TouchPages(memory, access);
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(
      absl::StrCat(what, ": no memory for ", memory.size_bytes, " bytes: ", std::strerror(errno)));
}

}  // namespace shardstep
