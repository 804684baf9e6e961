#ifndef SHARDSTEP_TOOLS_BENCH_MEMORY_STREAMS_H_
#define SHARDSTEP_TOOLS_BENCH_MEMORY_STREAMS_H_

#include <cstdint>
#include <vector>

namespace shardstep {

/// Arrays of equally many elements, and what a loop without arithmetic does with each: the cheapest way to move as many
/// bytes as a kernel has to.
struct MemoryStreams {
  std::vector<const uint16_t*> read2;
  std::vector<const float*> read4;
  std::vector<uint16_t*> keep2;  ///< read, and stored as they were
  std::vector<float*> keep4;
  std::vector<uint16_t*> write2;  ///< become anything; past the caches, as nobody reads them soon
  std::vector<float*> write4;

  int64_t bytes_per_element() const;
};

/// Moves elements [begin, end) with the best vectors of this CPU. Threads: any, of disjoint elements.
void Move(const MemoryStreams& streams, int64_t begin, int64_t end);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_MEMORY_STREAMS_H_
