#ifndef SHARDSTEP_RUNTIME_STEP_SCHEDULER_H_
#define SHARDSTEP_RUNTIME_STEP_SCHEDULER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "shardstep/comm/communicator.h"
#include "shardstep/comm/host_stream.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/shard_kernels.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/optimizer/shard_state.h"
#include "shardstep/runtime/decision.h"
#include "shardstep/runtime/options.h"
#include "shardstep/runtime/other_optimizers.h"
#include "shardstep/runtime/step_launcher.h"
#include "shardstep/runtime/step_plan.h"
#include "shardstep/runtime/step_record.h"
#include "shardstep/runtime/step_tracer.h"

namespace shardstep {

/// Executes the nodes of the step plan as gradients become ready, and is the only place that waits. It knows no
/// backend. The calls mean what they mean in sharded_optimizer.h; one thread makes them.
class StepScheduler {
 public:
  explicit StepScheduler(const StepResources& resources);

  absl::Status GradientWritable(int p);
  absl::Status GradientReady(int p);
  absl::Status EndMicroStep();
  absl::Status Step(const StepArguments& arguments);
  absl::Status WeightsReady(int p);
  absl::StatusOr<StepRecord> FinishStep();
  /// Plans the steps that follow: `micro_steps` >= 1. Between steps, with the running sums that the new plan needs.
  absl::Status Replan(int64_t micro_steps);
  /// The groups have changed, or what is frozen. Between steps, and the last one is finished.
  absl::Status TakeOverGroups();
  /// Settings of groups have changed, and nothing else: the next step takes them over. No step is in flight.
  void SettingsChanged() { settings_changed_ = true; }
  absl::Status CheckNotInFlight(absl::string_view call);
  /// `others` take part in every decision from the next step on. Between steps, once; they outlive the streams' work.
  absl::Status DecideWith(OtherOptimizers* others);
  /// Collective, between steps: what owners have written into their shards of `buckets` becomes every rank's weights.
  absl::Status ShareWeights(absl::Span<const int> buckets);

  /// See sharded_optimizer.h.
  absl::Status BeginCapture();
  absl::Status EndCapture();
  absl::Status Replay(const StepArguments& arguments);

  /// What the last step's sums were divided by.
  double divisor() const { return launcher_.divisor(); }
  const StepPlan& plan() const { return plan_; }
  /// As of the last finished step, or as restored.
  const StepCounters& counters() const { return counters_; }
  void RestoreCounters(const StepCounters& counters) {
    counters_ = counters;
    step_number_ = counters.step + 1;
  }
  /// Between steps. What was launched before is done, and the trace before has heard of it, when this returns.
  void SetTrace(StepTrace* trace);

  /// FailedPrecondition, naming `call`, while a step is in flight; the sticky error, if any; else every rank's weights
  /// of the last step are here, and the host may work on all memory of the step.
  absl::Status Settle(absl::string_view call);
  /// FailedPrecondition, naming `call`, once a gradient of the next step was asked for; the sticky error, if any.
  absl::Status CheckBetweenSteps(absl::string_view call);
  /// Between steps: the last one is finished and no gradient of the next one was asked for.
  bool idle() const;
  /// GradientReady(p) would be taken.
  bool IsWritable(int p) const { return gradients_[p] == GradientState::kWritable; }
  /// After an abort: nothing of the optimizer's moves on any stream any more.
  void Drain() { SynchronizeAll().IgnoreError(); }
  /// True once an update failed half-way: applied, and its weights not published.
  bool torn() const { return torn_; }

 private:
  enum class GradientState : char { kUnknown, kWritable, kReady };

  absl::Status Healthy();
  /// No gradient of the next step was asked for yet.
  bool BetweenSteps() const;
  absl::Status CheckParameter(int p, absl::string_view call) const;
  absl::Status CheckTrained(int p, absl::string_view call) const;
  void BeginPlan();
  void BeginMicroStep();
  absl::Status AwaitWritable(int p, const char* call);
  absl::Status MarkReady(int p);
  absl::Status FillMissing();
  absl::Status ZeroGradient(int p);
  GradientState StateOfTied(int p) const;
  absl::Status AwaitPublished(int b, const char* call);

  absl::Status Issue(int first, int last);
  absl::Status CheckArguments(const StepArguments& arguments) const;
  /// Gives the streams the words of the step; `last_contribution` of it.
  absl::Status Order(const StepArguments& arguments, int64_t last_contribution);
  absl::Status AwaitStep();
  absl::Status SynchronizeAll();
  void SettleAll();
  Stream& StreamOf(StepStream stream) const;

  const StepResources r_;
  const int world_size_;
  std::vector<std::vector<int>> tied_;  // by parameter that owns: all that are its weights, itself first
  OtherOptimizers* others_ = nullptr;
  StepPlan plan_;
  StepLauncher launcher_;
  StepTracer tracer_;

  // The step being filled or in flight.
  StepPosition position_;
  int64_t step_number_ = 1;               // of the step being filled, as its record will say
  int64_t micro_step_ = 0;                // within the step
  bool in_flight_ = false;                // between Step and FinishStep
  bool settings_changed_ = false;         // since the streams were given settings
  int64_t last_contribution_ = -1;        // the last micro-step of the step in which the caller marked a gradient ready
  std::vector<GradientState> gradients_;  // by parameter, of this micro-step
  std::vector<int> missing_;              // by bucket: gradients not ready in this micro-step
  int next_bucket_ = 0;                   // the first bucket not yet exchanged in this micro-step
  std::vector<bool> bucket_writable_;     // by bucket, in this micro-step
  std::vector<bool> bucket_published_;    // by bucket: the caller has waited for the last step's weights
  std::vector<Event> done_;               // by node
  std::vector<Event> read_done_;          // by bucket: this rank's kernels have read its latest gradients
  std::vector<Event> weights_done_;       // by bucket: this rank has updated its shard
  Event step_done_;
  std::vector<std::string> names_;  // by node, for profilers

  /// The step in flight was not issued but is launched by the caller, as a graph.
  bool replayed_ = false;
  bool capturing_ = false;
  int64_t captured_contribution_ = -1;   // last_contribution_ of the latest Step
  std::map<int64_t, int64_t> captured_;  // by micro-steps of a plan that was captured: its last_contribution_

  int64_t step_begin_ns_ = 0;
  int64_t step_end_ns_ = 0;  // written on the update stream

  absl::Status launch_error_;  // the first; no stream knows of it
  StepCounters counters_;
  int64_t exposed_ns_ = 0;
  bool torn_ = false;
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_STEP_SCHEDULER_H_
