#ifndef SHARDSTEP_TOOLS_BENCH_MPI_WIRE_H_
#define SHARDSTEP_TOOLS_BENCH_MPI_WIRE_H_

#include <cstdint>
#include <memory>

#include "shardstep/comm/buffer.h"
#include "shardstep/comm/levels.h"
#include "shardstep/comm/status.h"

namespace shardstep {

/// The floor of what travels between hosts: plain MPI messages, both ways at once over every host's link, of as many
/// bytes as a step must send, without any step.
///
/// Lives between MPI_Init and MPI_Finalize, and has MPI_COMM_WORLD, whose ranks the map names, to itself while it is in
/// Exchange; an error of MPI ends the job, as MPI does by default.
class MpiWire {
 public:
  /// Every rank, with the same map but its own place in it. `largest_bytes`: the most that Exchange will be asked for;
  /// touches as much memory, twice, on each host. ResourceExhausted when it does not fit.
  static absl::StatusOr<std::unique_ptr<MpiWire>> Create(const HostMap& map, int64_t largest_bytes);
  virtual ~MpiWire() = default;

  /// Collective. Every host sends `bytes` and receives as many: in equal parts by its ranks, to and from the same rank
  /// of each other host. Nothing with one host. InvalidArgument when that is negative or more than `largest_bytes`.
  virtual absl::Status Exchange(int64_t bytes) = 0;

  /// What this rank sends and what it has received: one part after the other for each other host, sent to the hosts
  /// after this one in turn, received from the hosts before this one.
  virtual BufferView outgoing() = 0;
  virtual BufferView incoming() = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_MPI_WIRE_H_
