#ifndef SHARDSTEP_TOOLS_BENCH_BENCH_CHECK_H_
#define SHARDSTEP_TOOLS_BENCH_BENCH_CHECK_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/comm/bf16.h"
#include "shardstep/comm/status.h"
#include "shardstep/tools/bench/bench_options.h"

namespace shardstep {

/// The weights that the unsharded scalar step (tools/reference) has after `steps` steps of the benchmark by `ranks`
/// ranks, in order on `hosts` hosts: of every parameter of options.parameters, from BenchMaster and BenchGradient.
/// Holds the whole model, and its gradients, in this process. InvalidArgument: the reference does not know a mode of
/// `options`.
absl::StatusOr<std::vector<std::vector<Bf16>>> ReferenceWeights(const BenchOptions& options, int ranks, int64_t steps,
                                                                int hosts = 1);

/// What ReferenceWeights holds at most.
int64_t ReferenceBytes(const BenchOptions& options, int ranks);

/// How many of all weights differ. `weights(p)`: those of parameter p.
int64_t CountWrong(const std::vector<std::vector<Bf16>>& expected,
                   const std::function<absl::Span<const Bf16>(int p)>& weights);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_BENCH_CHECK_H_
