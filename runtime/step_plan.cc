#include "shardstep/runtime/step_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace shardstep {
namespace {

class PlanBuilder {
 public:
  PlanBuilder(const StepPlanInput& input, const LevelTraits& traits)
      : traits_(traits), outer_(traits.network ? *traits.network : traits.host) {
    plan_.input = input;
    plan_.two_levels = Communicates() && traits.network.has_value();
    plan_.gradients = HandleGradients(input, traits);
    const bool slices_stay = !Communicates() || (outer_.slices_persist && !plan_.two_levels);
    // Whether the last micro-step's slices are summed once more by Update, or are all in the accumulator by then.
    updates_from_slices_ = input.look_for_non_finite ? !plan_.gradients.accumulator : slices_stay;
  }

  StepPlan Build() && {
    for (int64_t k = 0; k < plan_.input.micro_steps; ++k) {
      for (int b = 0; b < plan_.input.bucket_count(); ++b) {
        plan_.starts.push_back(Size());
        if (plan_.input.active[b]) AddGradients(b, k);
      }
    }
    plan_.starts.push_back(Size());
    AddDecision();
    for (int b = plan_.input.bucket_count() - 1; b >= 0; --b) {
      if (plan_.input.active[b]) AddUpdate(b);
    }
    return std::move(plan_);
  }

 private:
  bool Communicates() const { return plan_.communicates(); }
  Level OuterLevel() const { return plan_.two_levels ? Level::kNetwork : Level::kHost; }
  // Whether micro-step k begins inside a group of micro-batches.
  bool GroupGoesOn(int64_t k) const {
    return plan_.gradients.group_accumulator && k * plan_.input.world_size % plan_.input.sum_group != 0;
  }
  int FirstActive() const {
    const std::vector<bool>& active = plan_.input.active;
    return static_cast<int>(std::find(active.begin(), active.end(), true) - active.begin());
  }
  int LastActive() const {
    const std::vector<bool>& active = plan_.input.active;
    return plan_.input.bucket_count() - 1 -
           static_cast<int>(std::find(active.rbegin(), active.rend(), true) - active.rbegin());
  }
  int Size() const { return static_cast<int>(plan_.nodes.size()); }
  StepNode& Add(StepOp op, StepStream stream, int bucket, int64_t micro_step, Level level = Level::kHost) {
    plan_.nodes.push_back({.op = op, .stream = stream, .level = level, .bucket = bucket, .micro_step = micro_step});
    return plan_.nodes.back();
  }

  void AddGradients(int b, int64_t k) {
    const bool last = k == plan_.input.micro_steps - 1;
    if (plan_.gradients.local_sums) AddAccumulate(b, k);
    if (plan_.gradients.local_sums && !last) return;
    if (Communicates()) AddExchange(b, k);
    if (!last || plan_.input.look_for_non_finite || !updates_from_slices_) {
      AddReduce(b, k);
    } else if (plan_.gradients.local_sums && b == LastActive()) {
      // Exchanges have an order, so the last one's slices prove that all are there.
      Add(StepOp::kAwaitSlices, StepStream::kUpdate, b, k);
    }
    // Other slices that only Update reads need no AwaitSlices: the decision comes after every caller's exchanges.
    if (Communicates() && !(last && updates_from_slices_)) AddRelease(b, k);
  }

  void AddAccumulate(int b, int64_t k) {
    if (k == 0 && OverwritesSums(b)) Add(StepOp::kAwaitReleased, StepStream::kExchange, b, -1);
    StepNode& accumulate = Add(StepOp::kAccumulate, StepStream::kExchange, b, k);
    accumulate.read_accumulator = k > 0;
    accumulate.scan = plan_.input.look_for_non_finite;
    accumulate.waits_for_caller = true;
  }

  // Whether the step before may still be reading what bucket b's local sums are about to overwrite. With two levels the
  // exchange stream has passed that step's publishing. Where updates read the sums, they end with the bucket that is
  // the first one here.
  bool OverwritesSums(int b) const {
    if (plan_.two_levels) return false;
    return !updates_from_slices_ || b == FirstActive();
  }

  void AddExchange(int b, int64_t k) {
    const bool separate = plan_.gradients.local_sums || traits_.host.separate_exchange_stream;
    StepNode& exchange = Add(StepOp::kExchange, separate ? StepStream::kExchange : StepStream::kCaller, b, k);
    // Local sums come from the same stream.
    exchange.waits_for_caller = separate && !plan_.gradients.local_sums;
    AddRingWait(traits_.host, &exchange);
    if (plan_.two_levels) AddNetworkExchange(b, k);
  }

  // The host's gradients, or sums of them, leave for the owners on other hosts.
  void AddNetworkExchange(int b, int64_t k) {
    Add(StepOp::kAwaitSlices, StepStream::kExchange, b, k);
    if (plan_.input.sums_on_host) {
      StepNode& sum = Add(StepOp::kSumHost, StepStream::kExchange, b, k);
      sum.scan = plan_.input.look_for_non_finite && !plan_.gradients.local_sums;
      AddRingWait(outer_, &sum);
    }
    StepNode& exchange = Add(StepOp::kExchange, StepStream::kExchange, b, k, Level::kNetwork);
    if (!plan_.input.sums_on_host) AddRingWait(outer_, &exchange);
  }

  // Transient slices land in a ring: the slot's last user must have been read. In the step before it was, because the
  // exchange stream has passed that step's publishing, which comes after its updates.
  void AddRingWait(const CommunicatorTraits& level, StepNode* node) {
    if (level.slices_persist) return;
    const int64_t exchanges = static_cast<int64_t>(releases_.size());
    if (exchanges >= level.landing_buckets) node->waits.push_back(releases_[exchanges - level.landing_buckets]);
  }

  void AddReduce(int b, int64_t k) {
    const bool last = k == plan_.input.micro_steps - 1;
    const bool scan = plan_.input.look_for_non_finite;
    if (Communicates()) Add(StepOp::kAwaitSlices, StepStream::kUpdate, b, k, OuterLevel());
    StepNode& reduce = Add(StepOp::kReduce, StepStream::kUpdate, b, k);
    reduce.read_slices = true;
    reduce.read_accumulator = k > 0 && !plan_.gradients.local_sums;
    reduce.write_accumulator = plan_.gradients.accumulator;
    reduce.read_group = GroupGoesOn(k);
    reduce.write_group = !last && GroupGoesOn(k + 1);
    reduce.take_norm = last && scan;
    reduce.scan = scan;
    reduce.waits_for_caller = !Communicates();
  }

  void AddRelease(int b, int64_t k) {
    Add(StepOp::kRelease, StepStream::kUpdate, b, k, OuterLevel());
    if (plan_.two_levels) {
      // The host's gradients are read by this rank, and by the network on its behalf.
      Add(StepOp::kAwaitReleased, StepStream::kUpdate, b, k, Level::kNetwork);
      Add(StepOp::kRelease, StepStream::kUpdate, b, k);
    }
    releases_.push_back(Size() - 1);
  }

  void AddDecision() {
    // The decision waits for the caller's stream: once all ranks are here, nobody reads the old weights any more.
    Add(StepOp::kContribute, StepStream::kUpdate, -1, -1).waits_for_caller = true;
    if (Communicates()) Add(StepOp::kAllReduceSmall, StepStream::kUpdate, -1, -1);
    if (plan_.two_levels) Add(StepOp::kAllReduceSmall, StepStream::kUpdate, -1, -1, Level::kNetwork);
    if (plan_.input.joins) Add(StepOp::kJoin, StepStream::kUpdate, -1, -1);
    Add(StepOp::kDecide, StepStream::kUpdate, -1, -1);
  }

  void AddUpdate(int b) {
    StepNode& update = Add(StepOp::kUpdate, StepStream::kUpdate, b, -1);
    update.read_slices = updates_from_slices_;
    update.read_group = updates_from_slices_ && GroupGoesOn(plan_.input.micro_steps - 1);
    update.read_accumulator = plan_.gradients.accumulator;
    if (!Communicates()) return;
    const int updated = Size() - 1;
    if (updates_from_slices_) Add(StepOp::kRelease, StepStream::kUpdate, b, plan_.input.micro_steps - 1);
    if (plan_.two_levels) {
      Add(StepOp::kPublish, StepStream::kUpdate, b, -1, Level::kNetwork);
      Add(StepOp::kAwaitPublished, StepStream::kExchange, b, -1, Level::kNetwork);
      Add(StepOp::kPublish, StepStream::kExchange, b, -1);
      return;
    }
    const bool separate = traits_.host.separate_exchange_stream;
    StepNode& publish = Add(StepOp::kPublish, separate ? StepStream::kExchange : StepStream::kUpdate, b, -1);
    if (separate) publish.waits.push_back(updated);
  }

  const LevelTraits traits_;
  const CommunicatorTraits outer_;  // of the level that brings the slices which are reduced
  StepPlan plan_;
  bool updates_from_slices_ = false;
  std::vector<int> releases_;  // by exchange: the node after which its slot, and what was sent, are free
};

}  // namespace

const char* ToString(StepOp op) {
  switch (op) {
    case StepOp::kAccumulate:
      return "Accumulate";
    case StepOp::kExchange:
      return "Exchange";
    case StepOp::kAwaitSlices:
      return "AwaitSlices";
    case StepOp::kSumHost:
      return "SumHost";
    case StepOp::kReduce:
      return "Reduce";
    case StepOp::kRelease:
      return "Release";
    case StepOp::kAwaitReleased:
      return "AwaitReleased";
    case StepOp::kContribute:
      return "Contribute";
    case StepOp::kAllReduceSmall:
      return "AllReduceSmall";
    case StepOp::kJoin:
      return "Join";
    case StepOp::kDecide:
      return "Decide";
    case StepOp::kUpdate:
      return "Update";
    case StepOp::kPublish:
      return "Publish";
    case StepOp::kAwaitPublished:
      return "AwaitPublished";
  }
  return "?";
}

std::pair<int, int> StepPlan::Range(int64_t micro_step, int bucket) const {
  const int64_t i = micro_step * input.bucket_count() + bucket;
  return {starts[i], starts[i + 1]};
}

std::pair<int, int> StepPlan::AfterGradients() const { return {starts.back(), static_cast<int>(nodes.size())}; }

// Several micro-steps need a running sum, and slices that do not persist must be summed while they are there. Otherwise
// persistent slices are read twice, or once and kept as a sum for 8 bytes per element: 2 * N bytes of bf16, 4 * N of
// local sums.
GradientHandling HandleGradients(const StepPlanInput& input, const LevelTraits& traits) {
  const bool communicates = input.world_size > 1;
  const bool persists = traits.host.slices_persist && !traits.network.has_value();
  GradientHandling handling;
  handling.local_sums = input.local_accumulation && communicates;
  const int64_t reductions = handling.local_sums ? 1 : input.micro_steps;
  const int64_t slice_bytes = (handling.local_sums ? 4 : 2) * input.world_size;
  handling.accumulator =
      reductions > 1 || (communicates && !persists) || (input.look_for_non_finite && slice_bytes > 8);
  handling.group_accumulator = input.micro_steps > 1 && input.world_size % input.sum_group != 0;
  return handling;
}

StepPlan BuildStepPlan(const StepPlanInput& input, const LevelTraits& traits) {
  return PlanBuilder(input, traits).Build();
}

std::string ToString(const StepNode& node) {
  std::string text = ToString(node.op);
  if (node.level == Level::kNetwork) text += " between hosts";
  if (node.bucket < 0) return text;
  absl::StrAppend(&text, "(bucket ", node.bucket);
  if (node.micro_step >= 0) absl::StrAppend(&text, ", micro-step ", node.micro_step);
  return text + ")";
}

}  // namespace shardstep
