#include "shardstep/runtime/job_memory.h"

#include <algorithm>

#include "shardstep/runtime/host_contributions.h"
#include "shardstep/runtime/step_launcher.h"

namespace shardstep {
namespace {

// The rings that transient slices land in, and that sums for other hosts leave from.
int64_t TransitBytes(const OptimizerOptions& options, const ShardLayout& layout, const HostMap& map,
                     const LevelTraits& traits, bool local_sums) {
  const CommunicatorTraits& outer = traits.network ? *traits.network : traits.host;
  if (outer.slices_persist || layout.world_size() == 1) return 0;
  const HostContributions plan = traits.network ? PlanContributions(map, options) : HostContributions();
  const int64_t sum_bytes = traits.network ? HostSumBytes(layout, map, plan, outer.landing_buckets) : 0;
  if (outer.memory_at_once) return sum_bytes;
  int64_t largest_bytes = 0;  // of one slice of a shard
  for (int b = 0; b < layout.bucket_count(); ++b) {
    const DType dtype = local_sums ? DType::kFp32 : layout.kind(b).gradient_dtype;
    largest_bytes =
        std::max(largest_bytes, layout.shard_elements(b) * SizeBytes(plan.sums ? plan.SumDtype(dtype) : dtype));
  }
  if (!traits.network) return outer.landing_buckets * (layout.world_size() - 1) * largest_bytes;
  const int64_t landing_bytes = outer.landing_buckets * (map.host_count() - 1) * plan.count() * largest_bytes;
  return landing_bytes + sum_bytes;
}

}  // namespace

ShardState::Sums SumsOf(const GradientHandling& handling) {
  return {.accumulator = handling.accumulator, .group_accumulator = handling.group_accumulator};
}

void AddGradients(const ShardLayout& layout, int b, bool local_sums, MemoryEstimate* estimate) {
  const int64_t elements = layout.shard_elements(b) * layout.world_size();
  estimate->gradient_bytes += elements * SizeBytes(layout.kind(b).gradient_dtype);
  if (local_sums) estimate->local_sum_bytes += elements * SizeBytes(DType::kFp32);
}

void SetState(const ShardState::Bytes& state, MemoryEstimate* estimate) {
  estimate->master_bytes = state.master_bytes;
  estimate->state_bytes = state.moment_bytes;
  estimate->accumulator_bytes = state.sum_bytes;
}

MemoryEstimate EstimateJobMemory(const OptimizerOptions& options, const ShardLayout& layout, const HostMap& map,
                                 const LevelTraits& traits, const GradientHandling& handling) {
  MemoryEstimate estimate;
  const bool shared = traits.host.slices_persist && options.weights == WeightCopies::kShared;
  (shared ? estimate.weights_shared_bytes : estimate.weights_private_bytes) = layout.weight_arena_bytes();
  for (int b = 0; b < layout.bucket_count(); ++b) {
    if (!layout.kind(b).frozen || traits.host.memory_at_once) AddGradients(layout, b, handling.local_sums, &estimate);
  }
  SetState(ShardState::BytesOf(layout, SumsOf(handling)), &estimate);
  estimate.transit_bytes = TransitBytes(options, layout, map, traits, handling.local_sums);
  return estimate;
}

}  // namespace shardstep
