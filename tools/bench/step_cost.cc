#include "shardstep/tools/bench/step_cost.h"

#include <algorithm>

#include "shardstep/comm/dtype.h"

namespace shardstep {
namespace {

constexpr double kBf16Bytes = 2;
constexpr double kFp32Bytes = 4;

}  // namespace

bool KeepsSum(const StepCase& step) {
  // 2 bytes per rank read once more, or 4 written and 4 read.
  const bool cheaper = step.two_passes && kBf16Bytes * step.ranks > 2 * kFp32Bytes;
  return step.micro_steps > 1 || step.hosts > 1 || cheaper;
}

int64_t GradientPasses(const StepCase& step) {
  // Slices from another host do not stay until the update.
  const bool first = step.two_passes || step.hosts > 1;
  return step.micro_steps - (first ? 0 : 1);
}

bool ReadsSlicesInUpdate(const StepCase& step) { return !KeepsSum(step) || GradientPasses(step) < step.micro_steps; }

MemoryCost CountMemoryCost(const StepCase& step) {
  const double slices = kBf16Bytes * (step.wire_sums ? 1 : step.ranks);
  const auto passes = static_cast<double>(GradientPasses(step));
  MemoryCost bytes;
  bytes.gradients = passes * slices;
  if (ReadsSlicesInUpdate(step)) bytes.update += slices;
  if (KeepsSum(step)) {
    // The first pass writes the sum, later ones read it too.
    bytes.gradients += (2 * passes - 1) * kFp32Bytes;
    bytes.update += kFp32Bytes;
  }
  // Weights of other hosts come over the network.
  const double copies = step.private_weights && step.hosts == 1 ? step.ranks : 1;
  // A split master is half in the weights, which are read then too.
  const double master = step.update.master == Master::kSplit ? 2 * kBf16Bytes + kBf16Bytes : 2 * kFp32Bytes;
  bytes.update += master + 2 * static_cast<double>(MomentBytes(step.update)) + copies * kBf16Bytes;
  return bytes;
}

WireCost CountWireCost(const StepCase& step, int64_t parameters) {
  const int64_t away = (step.hosts - 1) * parameters / step.hosts;
  const int64_t ranks = step.ranks / step.hosts;
  int64_t per_parameter = 2 * ranks;
  if (step.host_sum) {
    per_parameter = 2;
  } else if (ranks % step.sum_group == 0) {
    per_parameter = std::min(per_parameter, 4 * ranks / step.sum_group);
  }
  return {.gradients = step.micro_steps * per_parameter * away, .weights = 2 * away};
}

}  // namespace shardstep
