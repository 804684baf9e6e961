#ifndef SHARDSTEP_RUNTIME_PARAMETER_NORMS_H_
#define SHARDSTEP_RUNTIME_PARAMETER_NORMS_H_

#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "shardstep/comm/rendezvous.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/exact_sum.h"

namespace shardstep {

/// Collective. The norm of each parameter's averaged gradient: sqrt(the squares that all ranks have found) / divisor,
/// as the global norm is made (numeric contract 3), so it has the same bits at every number of ranks.
absl::StatusOr<std::vector<double>> GatherParameterNorms(absl::Span<const ExactSum> squares_of_this_rank,
                                                         double divisor, Rendezvous& rendezvous,
                                                         absl::Duration deadline);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_PARAMETER_NORMS_H_
