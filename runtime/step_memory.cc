#include "shardstep/runtime/step_memory.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

namespace shardstep {

absl::StatusOr<StepMemory> StepMemory::Create(Memory& memory, int parameter_norms) {
  StepMemory words;
  words.memory_ = &memory;
  SHARDSTEP_ASSIGN_OR_RETURN(words.on_device_,
                             memory.Allocate(sizeof(OnDevice), "words of a step", PageBacking::kOnCreation));
  SHARDSTEP_ASSIGN_OR_RETURN(words.for_both_, memory.AllocateForBoth(sizeof(ForBoth), "orders and reports of steps"));
  const OnDevice nothing_scanned;
  SHARDSTEP_RETURN_IF_ERROR(memory.Write(&nothing_scanned, words.on_device_.view().data, sizeof(nothing_scanned)));
  std::construct_at(words.for_both_.as<ForBoth>());
  words.parameter_count_ = static_cast<size_t>(parameter_norms);
  const std::vector<ScanResult> scans(words.parameter_count_);
  const auto scan_bytes = static_cast<int64_t>(scans.size() * sizeof(ScanResult));
  SHARDSTEP_ASSIGN_OR_RETURN(words.parameter_scans_,
                             memory.Allocate(scan_bytes, "scans of parameters", PageBacking::kOnCreation));
  SHARDSTEP_RETURN_IF_ERROR(memory.Write(scans.data(), words.parameter_scans(), scan_bytes));
  SHARDSTEP_ASSIGN_OR_RETURN(
      words.parameter_norms_,
      memory.AllocateForBoth(static_cast<int64_t>(scans.size() * sizeof(ExactSum)), "norms of parameters"));
  return words;
}

absl::Status StepMemory::SetSettings(absl::Span<const RuleSettings> settings) {
  const auto size_bytes = [&](size_t one) { return static_cast<int64_t>(settings.size() * one); };
  if (settings_.size_bytes() < size_bytes(sizeof(RuleSettings))) {
    SHARDSTEP_ASSIGN_OR_RETURN(Buffer more,
                               memory_->AllocateForBoth(size_bytes(sizeof(RuleSettings)), "rule settings"));
    SHARDSTEP_ASSIGN_OR_RETURN(
        rules_, memory_->Allocate(size_bytes(sizeof(RuleScalars)), "rule scalars", PageBacking::kOnCreation));
    settings_ = std::move(more);
  }
  settings_count_ = settings.size();
  std::uninitialized_copy(settings.begin(), settings.end(), settings_.as<RuleSettings>());
  return absl::OkStatus();
}

ContributeWords StepMemory::Contribute(int exchange_scan) const {
  return {.order = &order(),
          .scan = &on_device().scan,
          .exchange_scan = &on_device().exchange_scans[exchange_scan],
          .reduction = &on_device().reduction,
          .parameter_scans = parameter_scans(),
          .parameter_norms = parameter_norms_.as<ExactSum>(),
          .parameter_count = static_cast<int32_t>(parameter_count_)};
}

DecideWords StepMemory::Decide(const StepFacts* facts) const {
  return {.order = &order(),
          .reduction = &on_device().reduction,
          .facts = facts,
          .settings = settings().data(),
          .settings_count = static_cast<int32_t>(settings_count_),
          .scalars = &on_device().scalars,
          .rules = rules().data(),
          .report = &for_both_.as<ForBoth>()->report};
}

}  // namespace shardstep
