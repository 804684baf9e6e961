#ifndef SHARDSTEP_TOOLS_BENCH_PROCESS_MEMORY_H_
#define SHARDSTEP_TOOLS_BENCH_PROCESS_MEMORY_H_

#include <cstdint>

#include "shardstep/comm/status.h"

namespace shardstep {

/// What the operating system counts for this process.
struct ProcessMemory {
  int64_t proportional_bytes = 0;  ///< pages that n processes map count 1/n: the sum over them is what they hold
  int64_t resident_bytes = 0;      ///< shared pages whole
  int64_t peak_resident_bytes = 0;
};
/// NotFound or Unknown name the file of /proc that cannot be read.
absl::StatusOr<ProcessMemory> ReadProcessMemory();

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_PROCESS_MEMORY_H_
