#ifndef SHARDSTEP_TOOLS_BENCH_ALLOCATOR_H_
#define SHARDSTEP_TOOLS_BENCH_ALLOCATOR_H_

namespace shardstep {

/// How malloc treats the large buffers that MPI allocates in every step.
enum class Allocator {
  kDefault,  ///< glibc's: mapped, returned to the system and touched for the first time again in each step
  kKeeps,    ///< freed memory is kept and used again
};
/// Of this process, from now on; buffers in use stay as they are. Both may alternate, but whoever measures kKeeps takes
/// a step first: kDefault returns what was kept. Each change to kDefault costs address space, up to the largest buffers
/// of a step, and no memory; some thousand fit into a process.
void SetAllocator(Allocator allocator);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_ALLOCATOR_H_
