#include "shardstep/runtime/step_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace shardstep {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> Texts(const StepPlan& plan) {
  std::vector<std::string> texts;
  for (const StepNode& node : plan.nodes) texts.push_back(ToString(node));
  return texts;
}

std::vector<bool> Buckets(int count) { return std::vector<bool>(count, true); }

const CommunicatorTraits kShared;
const CommunicatorTraits kTransient{.slices_persist = false, .landing_buckets = 2, .separate_exchange_stream = true};

TEST(StepPlan, OneMicroStepRereadsPersistentSlices) {
  const StepPlan plan = BuildStepPlan({.active = Buckets(2), .world_size = 2}, {kShared});
  EXPECT_FALSE(plan.gradients.accumulator);
  EXPECT_THAT(Texts(plan), ElementsAre("Exchange(bucket 0, micro-step 0)", "AwaitSlices(bucket 0, micro-step 0)",
                                       "Reduce(bucket 0, micro-step 0)", "Exchange(bucket 1, micro-step 0)",
                                       "AwaitSlices(bucket 1, micro-step 0)", "Reduce(bucket 1, micro-step 0)",
                                       "Contribute", "AllReduceSmall", "Decide", "Update(bucket 1)",
                                       "Release(bucket 1, micro-step 0)", "Publish(bucket 1)", "Update(bucket 0)",
                                       "Release(bucket 0, micro-step 0)", "Publish(bucket 0)"));
}

TEST(StepPlan, OnePassWhenNobodyLooks) {
  const StepPlan plan = BuildStepPlan({.active = Buckets(1), .world_size = 2, .look_for_non_finite = false}, {kShared});
  EXPECT_THAT(Texts(plan), ElementsAre("Exchange(bucket 0, micro-step 0)", "Contribute", "AllReduceSmall", "Decide",
                                       "Update(bucket 0)", "Release(bucket 0, micro-step 0)", "Publish(bucket 0)"));
}

// L4: a single rank communicates with nobody.
TEST(StepPlan, L4OneRankHasNoCommunication) {
  for (const CommunicatorTraits& traits : {kShared, kTransient}) {
    const StepPlan plan = BuildStepPlan({.active = Buckets(2), .world_size = 1, .micro_steps = 2}, {traits});
    EXPECT_THAT(Texts(plan), ElementsAre("Reduce(bucket 0, micro-step 0)", "Reduce(bucket 1, micro-step 0)",
                                         "Reduce(bucket 0, micro-step 1)", "Reduce(bucket 1, micro-step 1)",
                                         "Contribute", "Decide", "Update(bucket 1)", "Update(bucket 0)"));
  }
}

// The cost contract: 4N bytes per element to reread, 2N + 8 to keep the sum.
TEST(StepPlan, KeepsTheSumWhenThatIsCheaper) {
  for (int n = 1; n <= 8; ++n) {
    EXPECT_EQ(BuildStepPlan({.active = Buckets(1), .world_size = n}, {kShared}).gradients.accumulator,
              4 * n > 2 * n + 8)
        << n;
  }
  EXPECT_FALSE(BuildStepPlan({.active = Buckets(1), .world_size = 8, .look_for_non_finite = false}, {kShared})
                   .gradients.accumulator);
  EXPECT_TRUE(
      BuildStepPlan({.active = Buckets(1), .world_size = 2, .micro_steps = 2}, {kShared}).gradients.accumulator);
  EXPECT_TRUE(BuildStepPlan({.active = Buckets(1), .world_size = 2}, {kTransient}).gradients.accumulator);
}

TEST(StepPlan, LastMicroStepIsReadOnceWhenNobodyLooks) {
  const StepPlan plan =
      BuildStepPlan({.active = Buckets(1), .world_size = 2, .micro_steps = 2, .look_for_non_finite = false}, {kShared});
  int reduces = 0;
  for (const StepNode& node : plan.nodes) {
    reduces += node.op == StepOp::kReduce;
    if (node.op == StepOp::kUpdate) {
      EXPECT_TRUE(node.read_slices);
      EXPECT_TRUE(node.read_accumulator);
    }
  }
  EXPECT_EQ(reduces, 1);
}

TEST(StepPlan, TransientSlicesWaitForTheirLandingSlot) {
  const StepPlan plan = BuildStepPlan({.active = Buckets(3), .world_size = 2, .micro_steps = 2}, {kTransient});
  std::vector<int> releases;
  int exchanges = 0;
  for (size_t i = 0; i < plan.nodes.size(); ++i) {
    const StepNode& node = plan.nodes[i];
    if (node.op == StepOp::kRelease) releases.push_back(static_cast<int>(i));
    if (node.op != StepOp::kExchange) continue;
    EXPECT_EQ(node.stream, StepStream::kExchange);
    if (exchanges >= 2) {
      EXPECT_THAT(node.waits, ElementsAre(releases[exchanges - 2]));
    } else {
      EXPECT_THAT(node.waits, ElementsAre());
    }
    ++exchanges;
  }
  EXPECT_EQ(exchanges, 6);
}

TEST(StepPlan, RangesCoverAllNodesInOrder) {
  const StepPlan plan = BuildStepPlan({.active = Buckets(3), .world_size = 3, .micro_steps = 2}, {kShared});
  int next = 0;
  for (int64_t k = 0; k < 2; ++k) {
    for (int b = 0; b < 3; ++b) {
      const auto [first, last] = plan.Range(k, b);
      EXPECT_EQ(first, next);
      for (int i = first; i < last; ++i) {
        EXPECT_EQ(plan.nodes[i].bucket, b);
        EXPECT_EQ(plan.nodes[i].micro_step, k);
      }
      next = last;
    }
  }
  EXPECT_EQ(plan.AfterGradients(), std::make_pair(next, static_cast<int>(plan.nodes.size())));
}

// M2: nothing is done, or sent, for a bucket that is frozen.
TEST(StepPlan, M2FrozenBucketsHaveNoNodes) {
  const StepPlan plan = BuildStepPlan({.active = {true, false, true}, .world_size = 2}, {kShared});
  for (const StepNode& node : plan.nodes) EXPECT_NE(node.bucket, 1) << ToString(node);
  EXPECT_EQ(plan.Range(0, 1).first, plan.Range(0, 1).second);
  EXPECT_EQ(plan.Range(0, 2).second, plan.AfterGradients().first);
}

TEST(StepPlan, LocalSumsAreExchangedOnce) {
  const StepPlan plan =
      BuildStepPlan({.active = Buckets(1), .world_size = 2, .micro_steps = 2, .local_accumulation = true}, {kShared});
  EXPECT_TRUE(plan.gradients.local_sums);
  EXPECT_EQ(plan.exchanges(), 1);
  EXPECT_FALSE(plan.gradients.accumulator);
  EXPECT_THAT(Texts(plan), ElementsAre("AwaitReleased(bucket 0)", "Accumulate(bucket 0, micro-step 0)",
                                       "Accumulate(bucket 0, micro-step 1)", "Exchange(bucket 0, micro-step 1)",
                                       "AwaitSlices(bucket 0, micro-step 1)", "Reduce(bucket 0, micro-step 1)",
                                       "Contribute", "AllReduceSmall", "Decide", "Update(bucket 0)",
                                       "Release(bucket 0, micro-step 1)", "Publish(bucket 0)"));
  // 4 bytes per slice: more than two ranks' are cheaper kept as a sum.
  EXPECT_TRUE(BuildStepPlan({.active = Buckets(1), .world_size = 3, .local_accumulation = true}, {kShared})
                  .gradients.accumulator);
  // A rank alone has nothing to exchange.
  EXPECT_FALSE(BuildStepPlan({.active = Buckets(1), .micro_steps = 2, .local_accumulation = true}, {kShared})
                   .gradients.local_sums);
}

TEST(StepPlan, TwoLevels) {
  const StepPlan plan = BuildStepPlan({.active = Buckets(1), .world_size = 4}, {kShared, kTransient});
  EXPECT_TRUE(plan.two_levels);
  EXPECT_TRUE(plan.gradients.accumulator);
  EXPECT_THAT(
      Texts(plan),
      ElementsAre("Exchange(bucket 0, micro-step 0)", "AwaitSlices(bucket 0, micro-step 0)",
                  "Exchange between hosts(bucket 0, micro-step 0)", "AwaitSlices between hosts(bucket 0, micro-step 0)",
                  "Reduce(bucket 0, micro-step 0)", "Release between hosts(bucket 0, micro-step 0)",
                  "AwaitReleased between hosts(bucket 0, micro-step 0)", "Release(bucket 0, micro-step 0)",
                  "Contribute", "AllReduceSmall", "AllReduceSmall between hosts", "Decide", "Update(bucket 0)",
                  "Publish between hosts(bucket 0)", "AwaitPublished between hosts(bucket 0)", "Publish(bucket 0)"));
}

// Others are met once this optimizer's own ranks have agreed, on all levels, and also by a rank alone.
TEST(StepPlan, JoinsTheOthersBeforeItDecides) {
  const auto decision = [](int world_size, const LevelTraits& traits) {
    StepPlan plan = BuildStepPlan({.active = Buckets(1), .world_size = world_size, .joins = true}, traits);
    std::vector<std::string> texts;
    for (int i = plan.AfterGradients().first; plan.nodes[i].op != StepOp::kUpdate; ++i) {
      EXPECT_EQ(plan.nodes[i].stream, StepStream::kUpdate);
      texts.push_back(ToString(plan.nodes[i]));
    }
    return texts;
  };
  EXPECT_THAT(decision(1, {kShared}), ElementsAre("Contribute", "Join", "Decide"));
  EXPECT_THAT(decision(2, {kShared}), ElementsAre("Contribute", "AllReduceSmall", "Join", "Decide"));
  EXPECT_THAT(decision(4, {kShared, kTransient}),
              ElementsAre("Contribute", "AllReduceSmall", "AllReduceSmall between hosts", "Join", "Decide"));
}

TEST(StepPlan, HostsThatSendSumsFormThemFirst) {
  const StepPlan plan = BuildStepPlan({.active = Buckets(3), .world_size = 4, .sum_group = 2, .sums_on_host = true},
                                      {kShared, kTransient});
  int sums = 0;
  std::vector<int> last_releases;
  for (size_t i = 0; i < plan.nodes.size(); ++i) {
    const StepNode& node = plan.nodes[i];
    if (node.op == StepOp::kRelease && node.level == Level::kHost) last_releases.push_back(static_cast<int>(i));
    if (node.op != StepOp::kSumHost) continue;
    // The place where it puts a sum was sent from two exchanges ago.
    const std::vector<int> expected = sums < 2 ? std::vector<int>() : std::vector<int>{last_releases[sums - 2]};
    EXPECT_EQ(node.waits, expected);
    EXPECT_TRUE(node.scan);
    EXPECT_EQ(plan.nodes[i + 1].op, StepOp::kExchange);
    EXPECT_EQ(plan.nodes[i + 1].level, Level::kNetwork);
    ++sums;
  }
  EXPECT_EQ(sums, 3);
}

TEST(StepPlan, GroupsThatSpanMicroStepsKeepASecondSum) {
  const StepPlan plan =
      BuildStepPlan({.active = Buckets(1), .world_size = 2, .micro_steps = 4, .sum_group = 3}, {kShared});
  EXPECT_TRUE(plan.gradients.group_accumulator);
  std::vector<bool> reads, writes;
  for (const StepNode& node : plan.nodes) {
    if (node.op != StepOp::kReduce) continue;
    reads.push_back(node.read_group);
    writes.push_back(node.write_group);
  }
  // Groups end after micro-batches 2 and 5 of 0 to 7: micro-steps end at 1, 3, 5 and 7.
  EXPECT_THAT(reads, ElementsAre(false, true, true, false));
  EXPECT_THAT(writes, ElementsAre(true, true, false, false));
  EXPECT_FALSE(BuildStepPlan({.active = Buckets(1), .world_size = 4, .micro_steps = 4, .sum_group = 2}, {kShared})
                   .gradients.group_accumulator);
}

}  // namespace
}  // namespace shardstep
