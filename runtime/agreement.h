#ifndef SHARDSTEP_RUNTIME_AGREEMENT_H_
#define SHARDSTEP_RUNTIME_AGREEMENT_H_

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "shardstep/comm/rendezvous.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/runtime/options.h"

namespace shardstep {

/// Everything that must be equal on every rank before the first step, one line per field ("field = value"): build,
/// world size, parameters, options. Left out: update_threads, which bits do not depend on.
std::vector<std::string> DescribeConfiguration(const OptimizerOptions& options, const ShardLayout& layout);

/// Collective. FailedPrecondition names two ranks whose `value` differs, and both values. A value is short.
absl::Status AgreeOnValue(Rendezvous& rendezvous, absl::string_view what, absl::string_view value,
                          absl::Duration deadline);

/// Collective. FailedPrecondition names the two ranks and the first line that differs. Ranks exchange a digest, and the
/// lines themselves only when digests differ.
absl::Status AgreeOnConfiguration(const std::vector<std::string>& lines, Rendezvous& rendezvous,
                                  absl::Duration deadline);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_AGREEMENT_H_
