#include "shardstep/tools/bench/allocator.h"

#include <sys/resource.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "gtest/gtest.h"

namespace shardstep {
namespace {

constexpr size_t kLargeBytes = 48 << 20;
constexpr int64_t kPages = kLargeBytes / 4096;
constexpr size_t kSmallBytes = 1 << 20;

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<void, Free>;

Memory Touched(size_t bytes) {
  Memory memory(std::malloc(bytes));
  std::memset(memory.get(), 1, bytes);
  // Else the compiler knows that nobody reads it.
  asm volatile("" : : "r"(memory.get()) : "memory");
  return memory;
}

int64_t PageFaultsOf(size_t bytes) {
  const auto faults = [] {
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
  };
  const int64_t before = faults();
  Touched(bytes);
  return faults() - before;
}

TEST(AllocatorTest, KeepsLargeBuffersOrNotAsOftenAsItIsAsked) {
  Memory small;
  for (int time = 0; time < 3; ++time) {
    SCOPED_TRACE(time);
    SetAllocator(Allocator::kDefault);
    for (int i = 0; i < 3; ++i) EXPECT_GE(PageFaultsOf(kLargeBytes), kPages);
    SetAllocator(Allocator::kKeeps);
    {
      // Something that stays above it, so that the heap's end is not free.
      const Memory large = Touched(kLargeBytes);
      small = Touched(kSmallBytes);
    }
    PageFaultsOf(kLargeBytes);
    for (int i = 0; i < 3; ++i) EXPECT_LE(PageFaultsOf(kLargeBytes), kPages / 100);
  }
  SetAllocator(Allocator::kDefault);
}

// As a program ends up whose buffers are freed and allocated again.
TEST(AllocatorTest, BuffersBelow32MibAreKeptByDefault) {
  SetAllocator(Allocator::kDefault);
  PageFaultsOf(30 << 20);
  EXPECT_LE(PageFaultsOf(30 << 20), 100);
}

}  // namespace
}  // namespace shardstep
