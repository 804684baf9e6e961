#include "shardstep/runtime/host_contributions.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace shardstep {
namespace {

// Whether every host's ranks are whole groups of `group` consecutive ranks, of which the first is a multiple of it.
bool HostsHoldWholeGroups(const HostMap& map, int64_t group) {
  for (const std::vector<int>& ranks : map.hosts) {
    if (static_cast<int64_t>(ranks.size()) % group != 0) return false;
    for (size_t i = 0; i < ranks.size(); ++i) {
      const int64_t in_group = static_cast<int64_t>(i) % group;
      if (in_group == 0 ? ranks[i] % group != 0 : ranks[i] != ranks[i - 1] + 1) return false;
    }
  }
  return true;
}

HostContributions Singles(int ranks) {
  HostContributions plan;
  for (int i = 0; i < ranks; ++i) plan.contributions.push_back({.first = i, .ranks = 1});
  return plan;
}

std::string Megabytes(int64_t bytes) { return absl::StrFormat("%.3f MB", static_cast<double>(bytes) * 1e-6); }

}  // namespace

HostContributions PlanContributions(const HostMap& map, const OptimizerOptions& options) {
  const int ranks = map.ranks_per_host();
  if (options.host_sum == HostSum::kRounded && ranks > 1) {
    return {.contributions = {{.first = 0, .ranks = ranks}}, .sums = true, .rounded = true};
  }
  // An fp32 sum of two bf16 gradients is as long as both of them.
  if (options.sum_group < 2 || !HostsHoldWholeGroups(map, options.sum_group)) return Singles(ranks);
  HostContributions plan{.sums = true};
  const int group = static_cast<int>(options.sum_group);
  for (int i = 0; i < ranks; i += group) plan.contributions.push_back({.first = i, .ranks = group});
  return plan;
}

// Each host keeps 1/H of every bucket and sends the rest of it, once per contribution; of weights it sends its own part
// to every other host. The small all-reduce goes up to the first host, and from there to every other, rail by rail.
WireBytes WireBytesPerHost(const HostMap& map, const ShardLayout& layout, const std::vector<bool>& active,
                           const OptimizerOptions& options, int64_t micro_steps) {
  WireBytes bytes;
  const int64_t hosts = map.host_count();
  if (hosts < 2) return bytes;
  const int64_t ranks = map.ranks_per_host();
  const bool local = options.accumulation == Accumulation::kLocal;
  const HostContributions plan = PlanContributions(map, options);
  for (int b = 0; b < layout.bucket_count(); ++b) {
    if (!active[b]) continue;
    const int64_t host_elements = layout.shard_elements(b) * ranks;
    const DType dtype = local ? DType::kFp32 : layout.kind(b).gradient_dtype;
    const int64_t element_bytes = SizeBytes(plan.sums ? plan.SumDtype(dtype) : dtype);
    bytes.gradient_bytes += (hosts - 1) * host_elements * element_bytes * plan.count() * (local ? 1 : micro_steps);
    bytes.weight_bytes += (hosts - 1) * host_elements * SizeBytes(layout.kind(b).weight_dtype);
  }
  bytes.small_bytes = (hosts - 1) * ranks * static_cast<int64_t>(sizeof(SmallReduction));
  return bytes;
}

std::string DescribeWire(absl::string_view unit, const HostMap& map, const ShardLayout& layout,
                         const std::vector<bool>& active, const OptimizerOptions& options, int64_t micro_steps) {
  if (map.host_count() < 2) return "";
  const auto gradients = [&](HostSum host_sum, int64_t sum_group, Accumulation accumulation) {
    OptimizerOptions other = options;
    other.host_sum = host_sum;
    other.sum_group = sum_group;
    other.accumulation = accumulation;
    return Megabytes(WireBytesPerHost(map, layout, active, other, micro_steps).gradient_bytes);
  };
  const int64_t whole_host = map.ranks_per_host();
  std::string text = absl::StrCat("between ", map.host_count(), " ", unit, "s, per ", unit, " and step: weights ",
                                  Megabytes(WireBytesPerHost(map, layout, active, options, micro_steps).weight_bytes),
                                  ", gradients ", gradients(options.host_sum, options.sum_group, options.accumulation));
  absl::StrAppend(&text, "; by mode: exact ", gradients(HostSum::kExact, 1, Accumulation::kSharded));
  if (whole_host > 1) {
    absl::StrAppend(&text, ", sum_group ", whole_host, " ",
                    gradients(HostSum::kExact, whole_host, Accumulation::kSharded));
  }
  absl::StrAppend(&text, ", host_sum ROUNDED ", gradients(HostSum::kRounded, 1, Accumulation::kSharded));
  absl::StrAppend(&text, ", accumulation LOCAL ", gradients(HostSum::kExact, 1, Accumulation::kLocal));
  return text;
}

}  // namespace shardstep
