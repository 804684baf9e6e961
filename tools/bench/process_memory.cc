#include "shardstep/tools/bench/process_memory.h"

#include <cerrno>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"

namespace shardstep {
namespace {

// "Name:   123 kB", as bytes.
absl::StatusOr<int64_t> ReadField(const std::string& file, const std::string& name) {
  std::ifstream in(file);
  if (!in) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", file));
  std::string line;
  while (std::getline(in, line)) {
    if (line.compare(0, name.size(), name) == 0) return std::stoll(line.substr(name.size())) * 1024;
  }
  return absl::NotFoundError(absl::StrCat(file, " has no ", name));
}

}  // namespace

absl::StatusOr<ProcessMemory> ReadProcessMemory() {
  ProcessMemory memory;
  SHARDSTEP_ASSIGN_OR_RETURN(memory.proportional_bytes, ReadField("/proc/self/smaps_rollup", "Pss:"));
  SHARDSTEP_ASSIGN_OR_RETURN(memory.resident_bytes, ReadField("/proc/self/status", "VmRSS:"));
  SHARDSTEP_ASSIGN_OR_RETURN(memory.peak_resident_bytes, ReadField("/proc/self/status", "VmHWM:"));
  return memory;
}

}  // namespace shardstep
