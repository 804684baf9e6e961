#ifndef SHARDSTEP_RUNTIME_HOST_CONTRIBUTIONS_H_
#define SHARDSTEP_RUNTIME_HOST_CONTRIBUTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "shardstep/comm/levels.h"
#include "shardstep/comm/slice.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/runtime/options.h"

namespace shardstep {

/// One slice that a host sends to each owner on another host: the gradients of `ranks` of its ranks from number `first`
/// (in HostMap::hosts) on.
struct Contribution {
  int first = 0;
  int ranks = 1;
};

/// What hosts send of their ranks' gradients, the same on every host. A pure function of the job.
struct HostContributions {
  std::vector<Contribution> contributions;
  /// They are sums, formed on the host; otherwise each is one rank's gradients, sent from where they lie.
  bool sums = false;
  /// Of the sums: a host's whole sum is rounded to bf16. Never for fp32 gradients.
  bool rounded = false;

  int count() const { return static_cast<int>(contributions.size()); }
  /// What a sum of gradients of `gradient_dtype` travels as.
  DType SumDtype(DType gradient_dtype) const {
    return rounded && gradient_dtype == DType::kBf16 ? DType::kBf16 : DType::kFp32;
  }
};

/// Whole groups of sum_group ranks travel as one fp32 sum where every host holds whole groups of consecutive ranks and
/// that is fewer bytes or as many; a host's rounded sum by host_sum; else single gradients.
HostContributions PlanContributions(const HostMap& map, const OptimizerOptions& options);

/// Bytes that leave each host per step and direction, between hosts: what is sent, without what the network adds.
struct WireBytes {
  int64_t gradient_bytes = 0;
  int64_t weight_bytes = 0;
  int64_t small_bytes = 0;  ///< of the decision; the first host's, which are the most
};
/// Of a job on `map` with the layout's parameters, where `moves` says for each bucket whether it is active.
WireBytes WireBytesPerHost(const HostMap& map, const ShardLayout& layout, const std::vector<bool>& active,
                           const OptimizerOptions& options, int64_t micro_steps);

/// "between 2 hosts, per host and step: weights 1.5 MB, gradients 12.3 MB; by mode: exact 12.3 MB, ...": what is sent,
/// and what each mode would send. Empty with one host. `unit`: "rank" where every rank is as good as a host.
std::string DescribeWire(absl::string_view unit, const HostMap& map, const ShardLayout& layout,
                         const std::vector<bool>& active, const OptimizerOptions& options, int64_t micro_steps);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_HOST_CONTRIBUTIONS_H_
