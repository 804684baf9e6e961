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

const CommunicatorTraits kShared;
const CommunicatorTraits kTransient{.slices_persist = false, .landing_buckets = 2, .separate_exchange_stream = true};

TEST(StepPlan, OneMicroStepRereadsPersistentSlices) {
  const StepPlan plan = BuildStepPlan({.bucket_count = 2, .world_size = 2}, kShared);
  EXPECT_FALSE(plan.uses_accumulator);
  EXPECT_THAT(Texts(plan), ElementsAre("Exchange(bucket 0, micro-step 0)", "AwaitSlices(bucket 0, micro-step 0)",
                                       "Reduce(bucket 0, micro-step 0)", "Exchange(bucket 1, micro-step 0)",
                                       "AwaitSlices(bucket 1, micro-step 0)", "Reduce(bucket 1, micro-step 0)",
                                       "Contribute", "AllReduceSmall", "Decide", "Update(bucket 1)",
                                       "Release(bucket 1, micro-step 0)", "Publish(bucket 1)", "Update(bucket 0)",
                                       "Release(bucket 0, micro-step 0)", "Publish(bucket 0)"));
}

TEST(StepPlan, OnePassWhenNobodyLooks) {
  const StepPlan plan = BuildStepPlan({.bucket_count = 1, .world_size = 2, .look_for_non_finite = false}, kShared);
  EXPECT_THAT(Texts(plan), ElementsAre("Exchange(bucket 0, micro-step 0)", "Contribute", "AllReduceSmall", "Decide",
                                       "Update(bucket 0)", "Release(bucket 0, micro-step 0)", "Publish(bucket 0)"));
}

// L4: a single rank communicates with nobody.
TEST(StepPlan, L4OneRankHasNoCommunication) {
  for (const CommunicatorTraits& traits : {kShared, kTransient}) {
    const StepPlan plan = BuildStepPlan({.bucket_count = 2, .world_size = 1, .micro_steps = 2}, traits);
    EXPECT_THAT(Texts(plan), ElementsAre("Reduce(bucket 0, micro-step 0)", "Reduce(bucket 1, micro-step 0)",
                                         "Reduce(bucket 0, micro-step 1)", "Reduce(bucket 1, micro-step 1)",
                                         "Contribute", "Decide", "Update(bucket 1)", "Update(bucket 0)"));
  }
}

// The cost contract: 4N bytes per element to reread, 2N + 8 to keep the sum.
TEST(StepPlan, KeepsTheSumWhenThatIsCheaper) {
  for (int n = 1; n <= 8; ++n) {
    EXPECT_EQ(BuildStepPlan({.bucket_count = 1, .world_size = n}, kShared).uses_accumulator, 4 * n > 2 * n + 8) << n;
  }
  EXPECT_FALSE(
      BuildStepPlan({.bucket_count = 1, .world_size = 8, .look_for_non_finite = false}, kShared).uses_accumulator);
  EXPECT_TRUE(BuildStepPlan({.bucket_count = 1, .world_size = 2, .micro_steps = 2}, kShared).uses_accumulator);
  EXPECT_TRUE(BuildStepPlan({.bucket_count = 1, .world_size = 2}, kTransient).uses_accumulator);
}

TEST(StepPlan, LastMicroStepIsReadOnceWhenNobodyLooks) {
  const StepPlan plan =
      BuildStepPlan({.bucket_count = 1, .world_size = 2, .micro_steps = 2, .look_for_non_finite = false}, kShared);
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
  const StepPlan plan = BuildStepPlan({.bucket_count = 3, .world_size = 2, .micro_steps = 2}, kTransient);
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
  const StepPlan plan = BuildStepPlan({.bucket_count = 3, .world_size = 3, .micro_steps = 2}, kShared);
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

}  // namespace
}  // namespace shardstep
