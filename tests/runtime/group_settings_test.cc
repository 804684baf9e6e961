// Settings of groups, which every rank sets by itself: what happens when ranks do not do it alike.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint_test_model.h"
#include "shardstep/tests/comm/rank_threads.h"
#include "training_job.h"

namespace shardstep {
namespace {

GroupOptions Settings(double beta1) { return {.rule = AdamWOptions{.beta1 = beta1, .weight_decay = 0}}; }

void CreateOnes(const std::vector<GroupOptions>& groups, Rendezvous& rendezvous,
                std::unique_ptr<ShardedOptimizer>* optimizer) {
  TrainingJob job;
  job.options.groups = groups;
  job.options.update_threads = 1 + rendezvous.rank();  // every rank's own business
  auto created = ShardedOptimizer::Create(job.options, job.parameters, MakeLevels(job, rendezvous), &rendezvous);
  ASSERT_TRUE(created.ok()) << created.status();
  const auto fill = [](int, int64_t, absl::Span<float> values) { std::fill(values.begin(), values.end(), 1.0f); };
  ASSERT_TRUE((*created)->Initialize(fill).ok());
  *optimizer = *std::move(created);
}

absl::Status TakeStep(ShardedOptimizer& optimizer) {
  SHARDSTEP_RETURN_IF_ERROR(optimizer.EndMicroStep());
  SHARDSTEP_RETURN_IF_ERROR(optimizer.Step({.learning_rate = 0.5}));
  return optimizer.FinishStep().status();
}

// The step names ranks and group, also one added late, changes nothing, and can be taken again.
TEST(GroupSettings, ThatDifferAreFoundByTheStep) {
  RunRankThreads(3, [](Rendezvous& rendezvous) {
    std::unique_ptr<ShardedOptimizer> optimizer;
    ASSERT_NO_FATAL_FAILURE(CreateOnes(std::vector<GroupOptions>(9, Settings(0.9)), rendezvous, &optimizer));
    ASSERT_TRUE(optimizer->AddGroup(Settings(0.9), {}).ok());
    for (int group = 0; group < 10; ++group) {
      const auto set = [&] { ASSERT_TRUE(optimizer->SetGroup(group, Settings(0.5)).ok()); };
      if (rendezvous.rank() == 1) set();
      const absl::Status status = TakeStep(*optimizer);
      EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
      EXPECT_THAT(
          std::string(status.message()),
          testing::MatchesRegex(absl::StrCat("ranks (1 and 0|1 and 2|0 and 1|2 and 1) called Step with different ",
                                             "settings of group.", std::min(group, 7), "..*nothing was updated")));
      EXPECT_EQ(optimizer->counters().applied_steps, group);
      if (rendezvous.rank() != 1) set();
      EXPECT_EQ(TakeStep(*optimizer), absl::OkStatus());
    }
  });
}

// Between a step's last micro-step and Step there is still time, and until FinishStep none.
TEST(GroupSettings, MayChangeInsideAStepUntilItIsTaken) {
  RunRankThreads(2, [](Rendezvous& rendezvous) {
    std::unique_ptr<ShardedOptimizer> optimizer;
    ASSERT_NO_FATAL_FAILURE(CreateOnes({Settings(0.9)}, rendezvous, &optimizer));
    ASSERT_TRUE(optimizer->EndMicroStep().ok());
    // Without a gradient weights only decay: to 1 - 0.5 * 0.5.
    ASSERT_TRUE(optimizer->SetGroup(0, {.rule = AdamWOptions{.weight_decay = 0.5}}).ok());
    ASSERT_TRUE(optimizer->Step({.learning_rate = 0.5}).ok());
    EXPECT_EQ(optimizer->SetGroup(0, Settings(0.9)),
              absl::FailedPreconditionError("SetGroup: call FinishStep of the last step first"));
    ASSERT_TRUE(optimizer->FinishStep().ok());
    const auto master = optimizer->ReadState(optimizer->layout().parameter(0).name, StateKind::kMaster);
    ASSERT_TRUE(master.ok()) << master.status();
    EXPECT_EQ((*master)[0], 0.75f);
  });
}

// A checkpoint has one text of them.
TEST(GroupSettings, ThatDifferAreNotSaved) {
  const TemporaryDirectory scratch;
  RunRankThreads(2, [&](Rendezvous& rendezvous) {
    std::unique_ptr<ShardedOptimizer> optimizer;
    ASSERT_NO_FATAL_FAILURE(CreateOnes({Settings(0.9)}, rendezvous, &optimizer));
    const auto set_on = [&](int rank) {
      if (rendezvous.rank() != rank) return;
      EXPECT_TRUE(optimizer->SetGroup(0, Settings(0.5)).ok());
    };
    set_on(1);
    const absl::Status status = optimizer->Save(scratch.path(), "");
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()),
                testing::AllOf(testing::StartsWith("Save: ranks 0 and 1 have different configurations: "),
                               testing::HasSubstr("beta1 = 0.9"), testing::HasSubstr("beta1 = 0.5")));
    set_on(0);
    EXPECT_EQ(optimizer->Save(scratch.path(), ""), absl::OkStatus());
  });
}

}  // namespace
}  // namespace shardstep
