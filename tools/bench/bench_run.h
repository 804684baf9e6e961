#ifndef SHARDSTEP_TOOLS_BENCH_BENCH_RUN_H_
#define SHARDSTEP_TOOLS_BENCH_BENCH_RUN_H_

#include <iosfwd>
#include <vector>

#include "shardstep/comm/mpi/mpi_rendezvous.h"
#include "shardstep/comm/status.h"
#include "shardstep/tools/bench/bench_options.h"
#include "shardstep/tools/bench/bench_report.h"
#include "shardstep/tools/bench/mpi_world.h"

namespace shardstep {

/// Collective. One run of the benchmark: rounds of floor, step and baselines in turn, so that what the machine does
/// meanwhile happens to all of them. Rank 0 prints what it measures to `out`, and gets the rows: ours first. Refuses,
/// with ResourceExhausted, what the machines have no memory for.
absl::StatusOr<std::vector<BenchRow>> RunBench(const BenchOptions& options, MpiRendezvous& rendezvous, MpiWorld& world,
                                               std::ostream& out);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_BENCH_RUN_H_
