#ifndef SHARDSTEP_COMM_HOST_MEMORY_H_
#define SHARDSTEP_COMM_HOST_MEMORY_H_

#include <cstdint>

#include "shardstep/comm/buffer.h"
#include "shardstep/comm/status.h"

namespace shardstep {

/// What this process can still touch without being killed: the smaller of the kernel's estimate (MemAvailable) and the
/// room left in this process's memory cgroup. The largest int64 when neither can be read. A moment's value: others
/// allocate too.
int64_t AvailableMemoryBytes();

/// ResourceExhausted, naming `what`, the bytes it needs and those available, when `needed_bytes` exceed the latter.
absl::Status CheckMemoryAvailable(int64_t needed_bytes, absl::string_view what);

/// Asks for transparent huge pages where `memory` (page-aligned) holds several. Advice: nothing depends on it.
void AdviseHugePages(BufferView memory);

enum class PageAccess { kRead, kWrite };

/// Maps every page of `memory` (page-aligned, as returned by mmap) now, so that no step pays a first touch, huge
/// ones where the system grants them. ResourceExhausted, naming `what`, when the system refuses. Contents do not
/// change.
absl::Status PopulatePages(BufferView memory, PageAccess access, absl::string_view what);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_HOST_MEMORY_H_
