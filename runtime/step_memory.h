#ifndef SHARDSTEP_RUNTIME_STEP_MEMORY_H_
#define SHARDSTEP_RUNTIME_STEP_MEMORY_H_

#include <array>

#include "absl/types/span.h"
#include "shardstep/comm/buffer.h"
#include "shardstep/comm/memory.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/digest_words.h"
#include "shardstep/optimizer/step_words.h"

namespace shardstep {

/// The step words of one optimizer: those that only its streams touch in its device's memory, the others where both the
/// host and the streams reach them. Addresses are fixed at creation, but for SetSettings.
class StepMemory {
 public:
  /// What only work on the streams touches.
  struct OnDevice {
    ScanResult scan;  ///< of the update stream
    /// Of the exchange stream, by step: it may begin the next step's before this one's is contributed.
    std::array<ScanResult, 2> exchange_scans;
    SmallReduction reduction;
    UpdateScalars scalars;
    std::array<DigestSum, 4> digests;  ///< between steps: see ModelAccess::Digests
  };
  struct ForBoth {
    StepOrder order;
    StepReport report;
  };

  /// `memory` must outlive it. `parameter_norms`: that many are looked for one by one; 0: none.
  static absl::StatusOr<StepMemory> Create(Memory& memory, int parameter_norms = 0);

  /// What the rules' scalars are made from; between steps. ResourceExhausted: nothing has changed then.
  absl::Status SetSettings(absl::Span<const RuleSettings> settings);

  OnDevice& on_device() const { return *on_device_.as<OnDevice>(); }
  StepOrder& order() const { return for_both_.as<ForBoth>()->order; }
  const StepReport& report() const { return for_both_.as<ForBoth>()->report; }
  absl::Span<const RuleSettings> settings() const { return {settings_.as<RuleSettings>(), settings_count_}; }
  absl::Span<RuleScalars> rules() const { return {rules_.as<RuleScalars>(), settings_count_}; }
  /// By parameter, if they are looked for one by one: nullptr otherwise.
  ScanResult* parameter_scans() const { return parameter_scans_.as<ScanResult>(); }
  absl::Span<const ExactSum> parameter_norms() const { return {parameter_norms_.as<ExactSum>(), parameter_count_}; }
  /// Contribute of a step that has gone to `exchange_scan`; Decide by `facts`, nullptr: by the reduction.
  ContributeWords Contribute(int exchange_scan) const;
  DecideWords Decide(const StepFacts* facts) const;

 private:
  Memory* memory_ = nullptr;
  Buffer on_device_, for_both_, settings_, rules_, parameter_scans_, parameter_norms_;
  size_t parameter_count_ = 0;
  size_t settings_count_ = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_STEP_MEMORY_H_
