#ifndef SHARDSTEP_TOOLS_BENCH_MEMORY_STREAMS_H_
#define SHARDSTEP_TOOLS_BENCH_MEMORY_STREAMS_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/optimizer/worker_pool.h"

namespace shardstep {

/// Arrays of equally many elements, and what a loop without arithmetic does with each: the cheapest way to move as many
/// bytes as a kernel has to. At most three of keep4 and two of keep2; what is moved of write2 and write4 begins at a
/// multiple of 64 bytes.
struct MemoryStreams {
  std::vector<const uint16_t*> read2;
  std::vector<const float*> read4;
  std::vector<uint16_t*> keep2;  ///< read, and stored as they were
  std::vector<float*> keep4;
  std::vector<uint16_t*> write2;  ///< become anything; past the caches, as nobody reads them soon
  std::vector<float*> write4;

  int64_t bytes_per_element() const;
};

/// Elements [begin, begin + elements).
struct ElementRange {
  int64_t begin = 0;
  int64_t elements = 0;
};

/// Moves all elements of `ranges` with the best vectors of this CPU, shared among this thread and `pool`;
/// touches no others. `begin` is a multiple of 32.
void Move(const MemoryStreams& streams, absl::Span<const ElementRange> ranges, WorkerPool& pool);

/// The same bytes by the plainest loop, as a compiler makes it for this CPU: what Move is judged by. Two streams of
/// read2, three of keep4 and one of write2, as a step of two ranks has; others are not known. It stores
/// through the caches, so it moves 2 bytes more: what it writes of write2 is read first.
void MovePlainly(const MemoryStreams& streams, absl::Span<const ElementRange> ranges, WorkerPool& pool);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_MEMORY_STREAMS_H_
