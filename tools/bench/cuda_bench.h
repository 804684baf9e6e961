#ifndef SHARDSTEP_TOOLS_BENCH_CUDA_BENCH_H_
#define SHARDSTEP_TOOLS_BENCH_CUDA_BENCH_H_

#include <iosfwd>

#include "shardstep/comm/status.h"
#include "shardstep/tools/bench/bench_options.h"
#include "shardstep/tools/bench/cuda_place.h"
#include "shardstep/tools/bench/cuda_report.h"

namespace shardstep {

/// Collective. One run of the benchmark on GPUs: rounds of floor and step in turn, so that what else the machine does
/// happens to both; then every weight compared, if asked; then the kernels alone beside their twins. Times are the
/// devices' own (events on the compute stream), of the slowest rank; gradients are in device memory before a step
/// begins. `place` was made for the same options and job.
///
/// Rank 0 prints what it finds to `out`; every rank gets the row, but for `wrong`, which rank 0 knows.
/// ResourceExhausted: too little memory. Unimplemented: --graph where communicators cannot be captured. Who fails alone
/// has to end the others (Rendezvous::Fail).
absl::StatusOr<CudaBenchRow> RunCudaBench(const BenchOptions& options, const CudaBenchJob& job, CudaPlace& place,
                                          std::ostream& out);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_CUDA_BENCH_H_
