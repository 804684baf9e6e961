#include "shardstep/runtime/step_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace shardstep {
namespace {

class PlanBuilder {
 public:
  PlanBuilder(const StepPlanInput& input, const CommunicatorTraits& traits) : traits_(traits) {
    plan_.input = input;
    plan_.uses_accumulator = UsesAccumulator(input, traits);
    plan_.kernels_read_gradients = traits.slices_persist || !Communicates();
    // Whether the last micro-step's slices are summed once more by Update, or are all in the accumulator by then.
    updates_from_slices_ = input.look_for_non_finite ? !plan_.uses_accumulator : plan_.kernels_read_gradients;
  }

  StepPlan Build() && {
    for (int64_t k = 0; k < plan_.input.micro_steps; ++k) {
      for (int b = 0; b < plan_.input.bucket_count; ++b) {
        plan_.starts.push_back(Size());
        AddGradients(b, k);
      }
    }
    plan_.starts.push_back(Size());
    AddDecision();
    for (int b = plan_.input.bucket_count - 1; b >= 0; --b) AddUpdate(b);
    return std::move(plan_);
  }

 private:
  bool Communicates() const { return plan_.communicates(); }
  int Size() const { return static_cast<int>(plan_.nodes.size()); }
  StepNode& Add(StepOp op, StepStream stream, int bucket, int64_t micro_step) {
    plan_.nodes.push_back({.op = op, .stream = stream, .bucket = bucket, .micro_step = micro_step});
    return plan_.nodes.back();
  }

  // Slices that only Update reads need no AwaitSlices: the decision comes after every rank's exchanges.
  void AddGradients(int b, int64_t k) {
    const bool last = k == plan_.input.micro_steps - 1;
    const bool scan = plan_.input.look_for_non_finite;
    if (Communicates()) AddExchange(b, k);
    if (!last || scan || !updates_from_slices_) {
      if (Communicates()) Add(StepOp::kAwaitSlices, StepStream::kUpdate, b, k);
      StepNode& reduce = Add(StepOp::kReduce, StepStream::kUpdate, b, k);
      reduce.read_slices = true;
      reduce.read_accumulator = k > 0;
      reduce.write_accumulator = plan_.uses_accumulator;
      reduce.take_norm = last && scan;
      reduce.scan = scan;
      reduce.waits_for_caller = !Communicates();
    }
    if (Communicates() && !(last && updates_from_slices_)) AddRelease(b, k);
  }

  void AddExchange(int b, int64_t k) {
    const bool separate = traits_.separate_exchange_stream;
    StepNode& exchange = Add(StepOp::kExchange, separate ? StepStream::kExchange : StepStream::kCaller, b, k);
    exchange.waits_for_caller = separate;
    if (traits_.slices_persist) return;
    // Transient slices land in a ring: the slot's last user must have been read. In the step before it was, because the
    // exchange stream has passed that step's Publish nodes, which come after its updates.
    const int64_t exchanges = static_cast<int64_t>(releases_.size());
    if (exchanges < traits_.landing_buckets) return;
    exchange.waits.push_back(releases_[exchanges - traits_.landing_buckets]);
  }

  void AddRelease(int b, int64_t k) {
    releases_.push_back(Size());
    Add(StepOp::kRelease, StepStream::kUpdate, b, k);
  }

  void AddDecision() {
    // The decision waits for the caller's stream: once all ranks are here, nobody reads the old weights any more.
    Add(StepOp::kContribute, StepStream::kUpdate, -1, -1).waits_for_caller = true;
    if (Communicates()) Add(StepOp::kAllReduceSmall, StepStream::kUpdate, -1, -1);
    Add(StepOp::kDecide, StepStream::kUpdate, -1, -1);
  }

  void AddUpdate(int b) {
    const int index = Size();
    const int64_t last = plan_.input.micro_steps - 1;
    StepNode& update = Add(StepOp::kUpdate, StepStream::kUpdate, b, -1);
    update.read_slices = updates_from_slices_;
    update.read_accumulator = plan_.uses_accumulator;
    if (!Communicates()) return;
    if (updates_from_slices_) Add(StepOp::kRelease, StepStream::kUpdate, b, last);
    const bool separate = traits_.separate_exchange_stream;
    StepNode& publish = Add(StepOp::kPublish, separate ? StepStream::kExchange : StepStream::kUpdate, b, -1);
    if (separate) publish.waits.push_back(index);
  }

  const CommunicatorTraits traits_;
  StepPlan plan_;
  bool updates_from_slices_ = false;
  std::vector<int> releases_;
};

const char* Name(StepOp op) {
  switch (op) {
    case StepOp::kExchange:
      return "Exchange";
    case StepOp::kAwaitSlices:
      return "AwaitSlices";
    case StepOp::kReduce:
      return "Reduce";
    case StepOp::kRelease:
      return "Release";
    case StepOp::kContribute:
      return "Contribute";
    case StepOp::kAllReduceSmall:
      return "AllReduceSmall";
    case StepOp::kDecide:
      return "Decide";
    case StepOp::kUpdate:
      return "Update";
    case StepOp::kPublish:
      return "Publish";
  }
  return "?";
}

}  // namespace

std::pair<int, int> StepPlan::Range(int64_t micro_step, int bucket) const {
  const int64_t i = micro_step * input.bucket_count + bucket;
  return {starts[i], starts[i + 1]};
}

std::pair<int, int> StepPlan::AfterGradients() const { return {starts.back(), static_cast<int>(nodes.size())}; }

// Several micro-steps need a running sum, and slices that do not persist must be summed while they are there. One
// micro-step of persistent slices is read twice for 4N bytes per element, or once and kept as a sum for 2N + 8.
bool UsesAccumulator(const StepPlanInput& input, const CommunicatorTraits& traits) {
  if (input.micro_steps > 1 || (!traits.slices_persist && input.world_size > 1)) return true;
  return input.look_for_non_finite && 2 * input.world_size + 8 < 4 * input.world_size;
}

StepPlan BuildStepPlan(const StepPlanInput& input, const CommunicatorTraits& traits) {
  return PlanBuilder(input, traits).Build();
}

std::string ToString(const StepNode& node) {
  std::string text = Name(node.op);
  if (node.bucket < 0) return text;
  absl::StrAppend(&text, "(bucket ", node.bucket);
  if (node.micro_step >= 0) absl::StrAppend(&text, ", micro-step ", node.micro_step);
  return text + ")";
}

}  // namespace shardstep
