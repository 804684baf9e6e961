#include "shardstep/tools/bench/allocator.h"

#include <malloc.h>

namespace shardstep {
namespace {

// glibc raises its thresholds, from 128 KiB, to the size of each mapped buffer that is freed, up to 32 MiB, and twice
// that. A program that allocates the same in every step therefore maps again only what is larger. Once a threshold is
// set they stay where they are, so we set what would become of them.
constexpr int kMapThresholdBytes = 32 << 20;
constexpr int kTrimThresholdBytes = 2 * kMapThresholdBytes;
constexpr int kMaxMapped = 65536;
constexpr int kNeverTrim = -1;

}  // namespace

void SetAllocator(Allocator allocator) {
  switch (allocator) {
    case Allocator::kDefault:
      mallopt(M_MMAP_THRESHOLD, kMapThresholdBytes);
      mallopt(M_MMAP_MAX, kMaxMapped);
      mallopt(M_TRIM_THRESHOLD, kTrimThresholdBytes);
      malloc_trim(0);
      return;
    case Allocator::kKeeps:
      mallopt(M_MMAP_MAX, 0);
      mallopt(M_TRIM_THRESHOLD, kNeverTrim);
      return;
  }
}

}  // namespace shardstep
