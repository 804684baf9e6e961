#include "shardstep/tools/bench/allocator.h"

#include <malloc.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

namespace shardstep {
namespace {

// glibc raises its thresholds, from 128 KiB, to the size of each mapped buffer that is freed, up to 32 MiB, and twice
// that. A program that allocates the same in every step therefore maps again only what is larger. Once a threshold is
// set they stay where they are, so we set what would become of them.
constexpr int kMapThresholdBytes = 32 << 20;
constexpr int kTrimThresholdBytes = 2 * kMapThresholdBytes;
constexpr int kMaxMapped = 65536;
constexpr int kNeverTrim = -1;

// Whether `memory`, of malloc, is part of the heap that grows: what malloc maps lies above it.
bool InHeap(const void* memory) { return reinterpret_cast<uintptr_t>(memory) < reinterpret_cast<uintptr_t>(sbrk(0)); }

// malloc looks among what was freed before it maps, and can return only what lies at the heap's end. So what it could
// still find is taken from it, for good: addresses only, its pages have been returned.
void HideLargeHoles() {
  malloc_trim(0);
  void* memory = nullptr;
  while ((memory = std::malloc(kMapThresholdBytes)) != nullptr && InHeap(memory)) {
  }
  std::free(memory);
}

}  // namespace

void SetAllocator(Allocator allocator) {
  switch (allocator) {
    case Allocator::kDefault:
      mallopt(M_MMAP_THRESHOLD, kMapThresholdBytes);
      mallopt(M_MMAP_MAX, kMaxMapped);
      mallopt(M_TRIM_THRESHOLD, kTrimThresholdBytes);
      HideLargeHoles();
      return;
    case Allocator::kKeeps:
      mallopt(M_MMAP_MAX, 0);
      mallopt(M_TRIM_THRESHOLD, kNeverTrim);
      return;
  }
}

}  // namespace shardstep
