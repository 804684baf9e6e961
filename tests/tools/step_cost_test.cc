// What a step has to move: the table in docs/performance.md, and that the library's plan moves no more and no less
// (C1).
#include "shardstep/tools/bench/step_cost.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shardstep/optimizer/decision_formula.h"
#include "shardstep/runtime/bucket_extents.h"
#include "shardstep/runtime/step_scheduler.h"
#include "shardstep/tests/runtime/step_recorder.h"

namespace shardstep {
namespace {

constexpr int kMostRanks = 16;
constexpr int64_t kMostMicroSteps = 4;

// Every case of one host with an AdamW step, by ranks, micro-steps, passes.
void ForEachCase(const std::function<void(const StepCase&)>& body) {
  for (int ranks = 1; ranks <= kMostRanks; ++ranks) {
    for (int64_t micro_steps = 1; micro_steps <= kMostMicroSteps; ++micro_steps) {
      for (const bool two_passes : {false, true}) {
        SCOPED_TRACE(absl::StrCat(ranks, " ranks, ", micro_steps, " micro-steps, ", two_passes ? 2 : 1, " passes"));
        body({.ranks = ranks, .micro_steps = micro_steps, .two_passes = two_passes});
      }
    }
  }
}

double TableBytes(const StepCase& step) {
  const double n = step.ranks;
  const auto k = static_cast<double>(step.micro_steps);
  if (step.micro_steps > 1) return 2 * n * k + 8 * k + (step.two_passes ? 26 : 18);
  return step.two_passes ? 26 + std::min(4 * n, 2 * n + 8) : 26 + 2 * n;
}

TEST(StepCostTest, TheTable) {
  ForEachCase([](const StepCase& step) { EXPECT_EQ(CountMemoryCost(step).total(), TableBytes(step)); });
}

TEST(StepCostTest, OtherRulesMastersAndCopies) {
  ForEachCase([](StepCase step) {
    const double table = TableBytes(step);
    step.update.master = Master::kSplit;
    EXPECT_EQ(CountMemoryCost(step).total(), table - 2);
    step.update = {.rule = Rule::kSgd};
    EXPECT_EQ(CountMemoryCost(step).total(), table - 8);
    step.update.momentum = false;
    EXPECT_EQ(CountMemoryCost(step).total(), table - 16);
    step.update = {.rule = Rule::kLion};
    EXPECT_EQ(CountMemoryCost(step).total(), table - 8);
    step.private_weights = true;
    EXPECT_EQ(CountMemoryCost(step).total(), table - 8 + 2 * (step.ranks - 1));
  });
}

TEST(StepCostTest, TheDecisionComesAfterWhatItNeeds) {
  // The gradients once; then once more with the state.
  EXPECT_EQ(CountMemoryCost({.ranks = 2}).gradients, 2 * 2);
  EXPECT_EQ(CountMemoryCost({.ranks = 2}).update, 2 * 2 + 26);
  // The sum is kept.
  EXPECT_EQ(CountMemoryCost({.ranks = 8}).gradients, 2 * 8 + 4);
  EXPECT_EQ(CountMemoryCost({.ranks = 8}).update, 4 + 26);
  // Nothing is needed.
  EXPECT_EQ(CountMemoryCost({.ranks = 2, .two_passes = false}).gradients, 0);
  EXPECT_EQ(CountMemoryCost({.ranks = 2, .micro_steps = 3, .two_passes = false}).gradients, 2 * 2 * 2 + 4 + 8);
  EXPECT_EQ(CountMemoryCost({.ranks = 2, .micro_steps = 3, .two_passes = false}).update, 2 * 2 + 4 + 26);
}

TEST(StepCostTest, TheWire) {
  const int64_t parameters = 3 * 4 * 1000;
  for (const int hosts : {1, 2, 3, 4}) {
    for (const int local : {1, 2, 4, 6}) {
      for (const int64_t micro_steps : {1, 3}) {
        SCOPED_TRACE(absl::StrCat(hosts, " hosts, ", local, " ranks each, ", micro_steps, " micro-steps"));
        StepCase step{.ranks = hosts * local, .hosts = hosts, .micro_steps = micro_steps};
        const int64_t weights = 2 * parameters * (hosts - 1) / hosts;
        EXPECT_EQ(CountWireCost(step, parameters).weights, weights);
        EXPECT_EQ(CountWireCost(step, parameters).gradients, weights * local * micro_steps);
        step.host_sum = true;
        EXPECT_EQ(CountWireCost(step, parameters).weights, weights);
        EXPECT_EQ(CountWireCost(step, parameters).gradients, weights * micro_steps);
      }
    }
  }
}

TEST(StepCostTest, GroupsTravelAsOneSumWhereThatIsLess) {
  const int64_t parameters = 6000;
  const auto times = [&](int local, int64_t group) {
    const StepCase step{.ranks = 2 * local, .hosts = 2, .sum_group = group};
    return static_cast<double>(CountWireCost(step, parameters).gradients) / parameters;
  };
  // 2L/G of the 2P/2 that weights take.
  EXPECT_EQ(times(4, 2), 4);
  EXPECT_EQ(times(4, 4), 2);
  EXPECT_EQ(times(8, 4), 4);
  EXPECT_EQ(times(6, 3), 4);
  // Not whole groups on a host: all gradients travel.
  EXPECT_EQ(times(4, 3), 4);
  EXPECT_EQ(times(4, 8), 4);
  EXPECT_EQ(times(3, 2), 3);
}

// ---- What the library moves ----------------------------------------------------------------------------------------

struct Moved {
  int64_t gradient_bytes = 0;
  int64_t update_bytes = 0;
};

// Kernels that count the bytes which they were to read and write: all that grows with the parameters.
class CountingKernels : public ShardKernels {
 public:
  absl::Status Reduce(const ReduceArgs& args, Stream&) override {
    ReduceArgs without_scan = args;
    without_scan.scan = nullptr;
    moved.gradient_bytes += Bytes(Accesses(without_scan));
    return absl::OkStatus();
  }
  absl::Status Update(const UpdateArgs& args, Stream&) override {
    UpdateArgs without_scalars = args;
    without_scalars.scalars = nullptr;
    without_scalars.rules = {};
    moved.update_bytes += Bytes(Accesses(without_scalars));
    return absl::OkStatus();
  }
  absl::Status Zero(const ZeroArgs& args, Stream&) override {
    moved.gradient_bytes += Bytes(Accesses(args));
    return absl::OkStatus();
  }
  absl::Status Copy(const CopyArgs& args, Stream&) override {
    moved.update_bytes += Bytes(Accesses(args));
    return absl::OkStatus();
  }
  absl::Status Digest(const DigestArgs&, Stream&) override { return absl::UnimplementedError("no part of a step"); }
  // A few words, which count for nothing.
  absl::Status Contribute(const ContributeWords& words, Stream&) override {
    ContributeScans(words);
    return absl::OkStatus();
  }
  absl::Status Decide(const DecideWords& words, Stream&) override {
    DecideStep(words);
    return absl::OkStatus();
  }
  absl::Status SetSegments(absl::Span<const absl::Span<const Segment>>) override { return absl::OkStatus(); }

  Moved moved;

 private:
  static int64_t Bytes(const std::vector<MemoryAccess>& accesses) {
    int64_t bytes = 0;
    for (const MemoryAccess& access : accesses) bytes += access.size_bytes;
    return bytes;
  }
};

OptimizerOptions OptionsOf(const StepCase& step) {
  OptimizerOptions options;
  GroupOptions& group = options.groups[0];
  if (step.update.rule == Rule::kSgd) group.rule = SgdOptions{.momentum = step.update.momentum ? 0.9 : 0};
  if (step.update.rule == Rule::kLion) group.rule = LionOptions();
  group.master = step.update.master;
  EXPECT_EQ(group.kind(), step.update);
  options.micro_steps = step.micro_steps;
  options.non_finite = step.two_passes ? NonFinitePolicy::kSkip : NonFinitePolicy::kIgnore;
  options.weights = step.private_weights ? WeightCopies::kPrivate : WeightCopies::kShared;
  return options;
}

// The second step of rank `rank` by the production plan and scheduler.
Moved StepOf(const StepCase& step, const ShardLayout& layout, RecorderGroup* host, int rank) {
  Recording recording;
  const OptimizerOptions options = OptionsOf(step);
  const ParameterGroups groups(options.groups, &layout);
  const HostMap one_host;
  RecorderStream caller(&recording, 0, "caller"), exchange(&recording, 1, "exchange"), update(&recording, 2, "update");
  RecorderCommunicator communicator(&recording, host, rank, HostExtents(layout, one_host, /*local_sums=*/false));
  const ShardState state = *ShardState::Create(layout, {.accumulator = true});
  const std::unique_ptr<ComputeDevice> device = CreateHostDevice();
  StepMemory words = *StepMemory::Create(HostMemory());
  CountingKernels kernels;
  StepScheduler scheduler({.options = &options,
                           .groups = &groups,
                           .layout = &layout,
                           .state = &state,
                           .rank = rank,
                           .host = &communicator,
                           .map = &one_host,
                           .kernels = &kernels,
                           .device = device.get(),
                           .words = &words,
                           .caller = &caller,
                           .exchange = &exchange,
                           .update = &update,
                           .gradients = communicator.gradients()});
  EXPECT_TRUE(scheduler.TakeOverGroups().ok());
  for (int count = 0; count < 2; ++count) {
    kernels.moved = {};
    for (int64_t k = 0; k < step.micro_steps; ++k) {
      for (int p = 0; p < layout.parameter_count(); ++p) {
        EXPECT_TRUE(scheduler.GradientWritable(p).ok());
        EXPECT_TRUE(scheduler.GradientReady(p).ok());
      }
      EXPECT_TRUE(scheduler.EndMicroStep().ok());
    }
    EXPECT_TRUE(scheduler.Step({.learning_rate = 0.1}).ok());
    EXPECT_TRUE(scheduler.FinishStep().ok());
  }
  return kernels.moved;
}

// All ranks' steps, in several buckets with padding, move the table's bytes for each parameter.
void ExpectTheLibraryMoves(const StepCase& step) {
  const std::vector<ParameterSpec> parameters = {{.name = "a", .shape = {5000}}, {.name = "b", .shape = {7, 3}}};
  const ShardLayout layout = *ShardLayout::Create(
      parameters, {.bucket_bytes = 2048, .world_size = step.ranks, .groups = {OptionsOf(step).groups[0].kind()}});
  RecorderGroup host("host 0", step.ranks, CommunicatorTraits(), step.micro_steps);
  host.MakeArenas(layout.gradient_arena_bytes(), layout.weight_arena_bytes(), step.private_weights);
  Moved all;
  for (int rank = 0; rank < step.ranks; ++rank) {
    const Moved one = StepOf(step, layout, &host, rank);
    all.gradient_bytes += one.gradient_bytes;
    all.update_bytes += one.update_bytes;
  }
  const MemoryCost cost = CountMemoryCost(step);
  const auto elements = static_cast<double>(layout.total_elements());
  EXPECT_EQ(elements, 5021);
  EXPECT_EQ(static_cast<double>(all.gradient_bytes), cost.gradients * elements);
  EXPECT_EQ(static_cast<double>(all.update_bytes), cost.update * elements);
}

TEST(StepCostTest, TheLibraryMovesTheTablesBytes) { ForEachCase(&ExpectTheLibraryMoves); }

TEST(StepCostTest, TheLibraryMovesTheTablesBytesWithOtherRulesMastersAndCopies) {
  const UpdateKind kinds[] = {{.rule = Rule::kSgd},
                              {.rule = Rule::kSgd, .momentum = false},
                              {.rule = Rule::kLion},
                              {.master = Master::kSplit},
                              {.rule = Rule::kLion, .master = Master::kSplit}};
  for (const UpdateKind& kind : kinds) {
    for (const bool private_weights : {false, true}) {
      for (const int ranks : {1, 3, 6}) {
        for (const int64_t micro_steps : {1, 2}) {
          SCOPED_TRACE(absl::StrCat(std::string(Name(kind.rule)), " ", std::string(Name(kind.master)), " ", ranks,
                                    private_weights ? " private " : " shared ", micro_steps));
          ExpectTheLibraryMoves(
              {.ranks = ranks, .update = kind, .micro_steps = micro_steps, .private_weights = private_weights});
        }
      }
    }
  }
}

}  // namespace
}  // namespace shardstep
