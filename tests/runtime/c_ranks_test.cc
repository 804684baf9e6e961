// The C interface of several ranks, each with a job of its own by TCP.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "c_trainer.h"

namespace shardstep {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr shardstep_job kAlone = SHARDSTEP_JOB_INIT;

class CRanksTest : public ::testing::Test {
 protected:
  CRanksTest() {
    const std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    directory_ = std::filesystem::path(::testing::TempDir()) / ("c_ranks_test_" + name);
    std::filesystem::remove_all(directory_);
  }
  ~CRanksTest() override { std::filesystem::remove_all(directory_); }
  std::string directory() const { return directory_.string(); }

 private:
  std::filesystem::path directory_;
};

// Options of a rank whose steps have two micro-batches with the others'.
std::string MicroSteps(int32_t ranks) { return "micro_steps: " + std::to_string(2 / ranks); }

TEST_F(CRanksTest, TrainTheSameBitsAsOne) {
  const COptimizer alone = CreateInitialized(kAlone, MicroSteps(1).c_str());
  TrainC(alone.get(), 0, 3);
  const std::string expected = DigestsOf(alone.get());
  RunCRanks(2, [&](const shardstep_job& job) {
    const COptimizer optimizer = CreateInitialized(job, MicroSteps(2).c_str());
    ASSERT_NE(optimizer, nullptr);
    EXPECT_EQ(shardstep_rank(optimizer.get()), job.rank);
    EXPECT_EQ(shardstep_world_size(optimizer.get()), 2);
    TrainC(optimizer.get(), 0, 3);
    EXPECT_EQ(DigestsOf(optimizer.get()), expected);
  });
}

TEST_F(CRanksTest, AnotherNumberOfThemGoesOnFromACheckpoint) {
  const COptimizer alone = CreateInitialized(kAlone, MicroSteps(1).c_str());
  TrainC(alone.get(), 0, 5);
  const std::string expected = DigestsOf(alone.get());
  const std::string state("position\0 17", 12);
  RunCRanks(2, [&](const shardstep_job& job) {
    const COptimizer optimizer = CreateInitialized(job, MicroSteps(2).c_str());
    ASSERT_NE(optimizer, nullptr);
    TrainC(optimizer.get(), 0, 3);
    ASSERT_C_OK(shardstep_save(optimizer.get(), directory().c_str(), state.data(), state.size()));
  });
  const COptimizer loaded = CreateC(kAlone, MicroSteps(1).c_str());
  const void* caller_state = nullptr;
  size_t bytes = 0;
  const char* warnings = nullptr;
  ASSERT_C_OK(shardstep_load(loaded.get(), directory().c_str(), &caller_state, &bytes, &warnings));
  EXPECT_EQ(std::string(static_cast<const char*>(caller_state), bytes), state);
  EXPECT_STREQ(warnings, "");
  shardstep_counters counters = SHARDSTEP_COUNTERS_INIT;
  ASSERT_C_OK(shardstep_read_counters(loaded.get(), &counters));
  EXPECT_EQ(counters.step, 3);
  TrainC(loaded.get(), 3, 5);
  EXPECT_EQ(DigestsOf(loaded.get()), expected);
}

TEST_F(CRanksTest, ACheckpointWithoutStateOrOutputsIsEnough) {
  const COptimizer saved = CreateInitialized(kAlone, "");
  ASSERT_C_OK(shardstep_save(saved.get(), directory().c_str(), nullptr, 0));
  const COptimizer loaded = CreateC(kAlone, "");
  ASSERT_C_OK(shardstep_load(loaded.get(), directory().c_str(), nullptr, nullptr, nullptr));
  EXPECT_EQ(DigestsOf(loaded.get()), DigestsOf(saved.get()));
}

TEST_F(CRanksTest, DamagedCheckpointsAreNamedInWarnings) {
  const COptimizer optimizer = CreateInitialized(kAlone, "");
  ASSERT_C_OK(shardstep_save(optimizer.get(), directory().c_str(), nullptr, 0));
  for (const auto& file : std::filesystem::recursive_directory_iterator(directory())) {
    if (file.is_regular_file()) std::filesystem::resize_file(file.path(), 10);
  }
  const char* warnings = nullptr;
  EXPECT_C_ERROR(shardstep_load(optimizer.get(), directory().c_str(), nullptr, nullptr, &warnings), SHARDSTEP_DATA_LOSS,
                 HasSubstr("step-0"));
  EXPECT_THAT(warnings, HasSubstr("step-0"));
  EXPECT_C_ERROR(shardstep_load(optimizer.get(), (directory() + "/none").c_str(), nullptr, nullptr, &warnings),
                 SHARDSTEP_NOT_FOUND, HasSubstr("none"));
  EXPECT_STREQ(warnings, "");
}

// A step without gradients; its first error.
shardstep_code TakeStep(shardstep_optimizer* optimizer) {
  const shardstep_step_arguments arguments = SHARDSTEP_STEP_ARGUMENTS_INIT;
  shardstep_code code = shardstep_end_micro_step(optimizer);
  if (code == SHARDSTEP_OK) code = shardstep_step(optimizer, &arguments);
  return code == SHARDSTEP_OK ? shardstep_finish_step(optimizer, nullptr, nullptr) : code;
}

TEST_F(CRanksTest, AnAbortOfAnotherThreadEndsWaits) {
  std::promise<void> aborted;
  RunCRanks(2, [&](const shardstep_job& job) {
    const COptimizer optimizer = CreateInitialized(job, "wait_deadline_seconds: 600");
    ASSERT_NE(optimizer, nullptr);
    // The other one waits for this rank, which comes too late.
    if (job.rank == 1) aborted.get_future().wait();
    std::thread watcher;
    if (job.rank == 0) {
      watcher = std::thread([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        EXPECT_C_OK(shardstep_abort(optimizer.get(), "a signal came"));
      });
    }
    EXPECT_C_ERROR(TakeStep(optimizer.get()), SHARDSTEP_ABORTED,
                   AllOf(HasSubstr("rank 0"), HasSubstr("a signal came")));
    EXPECT_EQ(shardstep_last_error_cause(), SHARDSTEP_CANCELLED);
    if (job.rank == 0) {
      watcher.join();
      aborted.set_value();
    }
  });
}

TEST_F(CRanksTest, RanksThatDifferAreNamed) {
  RunCRanks(2, [](const shardstep_job& job) {
    shardstep_optimizer* created = nullptr;
    const auto parameters = TestParameters();
    const char* options = job.rank == 0 ? "sum_group: 1" : "sum_group: 2";
    EXPECT_C_ERROR(shardstep_optimizer_create(&job, options, parameters.data(), 3, &created),
                   SHARDSTEP_FAILED_PRECONDITION, AllOf(HasSubstr("rank"), HasSubstr("sum_group")));
    EXPECT_EQ(created, nullptr);
  });
}

TEST_F(CRanksTest, WhatOneRankFailedInFailsOnAll) {
  RunCRanks(2, [](const shardstep_job& job) {
    const COptimizer optimizer = CreateInitialized(job, "");
    ASSERT_NE(optimizer, nullptr);
    EXPECT_C_ERROR(shardstep_agree(optimizer.get(), "reading", job.rank == 1 ? "the file is short" : nullptr),
                   SHARDSTEP_INVALID_ARGUMENT, HasSubstr("rank 1: the file is short"));
    EXPECT_C_OK(shardstep_agree(optimizer.get(), "reading", ""));
    // Settings are each rank's own until the step.
    EXPECT_C_OK(shardstep_set_group(optimizer.get(), 0, job.rank == 1 ? "adamw { beta1: 0.5 }" : "adamw { }"));
    EXPECT_C_ERROR(TakeStep(optimizer.get()), SHARDSTEP_FAILED_PRECONDITION, HasSubstr("settings of group[0]"));
    EXPECT_C_OK(shardstep_set_group(optimizer.get(), 0, "adamw { }"));
    EXPECT_C_OK(TakeStep(optimizer.get()));
  });
}

TEST_F(CRanksTest, AMissingRankIsNamed) {
  char id[SHARDSTEP_JOB_ID_BYTES];
  ASSERT_C_OK(shardstep_create_job_id("localhost", id));
  shardstep_job job = SHARDSTEP_JOB_INIT;
  job.meet = SHARDSTEP_MEET_TCP;
  job.id = id;
  job.world_size = 2;
  job.deadline_seconds = 0.2;
  shardstep_optimizer* created = nullptr;
  EXPECT_C_ERROR(shardstep_optimizer_create(&job, "", nullptr, 0, &created), SHARDSTEP_DEADLINE_EXCEEDED,
                 HasSubstr("1"));
}

// ---- Several optimizers --------------------------------------------------------------------------------------------

double SquaredNorm(int64_t micro_batches, int32_t p, int64_t elements) {
  double squares = 0;
  for (int64_t i = 0; i < elements; ++i) {
    double sum = 0;
    for (int64_t j = 0; j < micro_batches; ++j) sum += GradientValue(0, j, p, i);
    squares += sum * sum;
  }
  return squares;
}

// Both ranks share the dense parameters; each has an expert of its own.
class Experts {
 public:
  Experts(const shardstep_job& dense, const shardstep_job& all) {
    expert_name_ = "expert of rank " + std::to_string(all.rank);
    dense_ = CreateInitialized(dense, "wait_deadline_seconds: 60");
    expert_ = CreateInitialized(kAlone, "wait_deadline_seconds: 60");
    shardstep_optimizer* const optimizers[] = {dense_.get(), expert_.get()};
    const char* const names[] = {"dense", expert_name_.c_str()};
    EXPECT_C_OK(shardstep_join_decisions(&all, optimizers, names, 2));
    EXPECT_C_ERROR(shardstep_join_decisions(&kAlone, optimizers, names, 2), SHARDSTEP_FAILED_PRECONDITION,
                   HasSubstr("decides with others already"));
  }

  shardstep_optimizer* dense() { return dense_.get(); }
  shardstep_optimizer* expert() { return expert_.get(); }
  void DestroyDense() { dense_.reset(); }

  /// Step, in which the expert's gradients have a NaN if so wanted.
  void Step(bool with_nan) {
    for (int32_t p = 0; p < 3; ++p) WriteGradient(dense(), p, 0, shardstep_rank(dense()));
    for (int32_t p = 0; p < 3; ++p) WriteGradient(expert(), p, 0, 0, /*with_nan=*/p == 2 && with_nan);
    shardstep_step_arguments arguments = SHARDSTEP_STEP_ARGUMENTS_INIT;
    arguments.divisor = 2;
    for (shardstep_optimizer* optimizer : {dense(), expert()}) {
      ASSERT_C_OK(shardstep_end_micro_step(optimizer));
      ASSERT_C_OK(shardstep_step(optimizer, &arguments));
    }
  }

  shardstep_step_summary Finish(shardstep_optimizer* optimizer) {
    shardstep_step_summary summary = SHARDSTEP_STEP_SUMMARY_INIT;
    EXPECT_C_OK(shardstep_finish_step(optimizer, nullptr, nullptr));
    EXPECT_C_OK(shardstep_summarize_step(optimizer, &summary));
    return summary;
  }

 private:
  std::string expert_name_;
  COptimizer dense_;
  COptimizer expert_;
};

// The body gets a job for the dense parameters and one for all.
void RunExperts(const std::function<void(const shardstep_job& dense, const shardstep_job& all)>& body) {
  char id[SHARDSTEP_JOB_ID_BYTES];
  ASSERT_C_OK(shardstep_create_job_id("localhost", id));
  RunCRanks(2, [&](const shardstep_job& dense) {
    shardstep_job all = dense;
    all.id = id;
    body(dense, all);
  });
}

TEST_F(CRanksTest, SeveralOptimizersDecideTogether) {
  const auto squares = [](int64_t micro_batches) {
    return SquaredNorm(micro_batches, 0, 4200) + SquaredNorm(micro_batches, 1, 1500) +
           SquaredNorm(micro_batches, 2, 1500);
  };
  const double norm = std::sqrt(squares(2) + 2 * squares(1)) / 2;
  RunExperts([&](const shardstep_job& dense, const shardstep_job& all) {
    Experts experts(dense, all);
    experts.Step(/*with_nan=*/false);
    EXPECT_NEAR(experts.Finish(experts.dense()).gradient_norm, norm, 1e-9 * norm);
    EXPECT_NEAR(experts.Finish(experts.expert()).gradient_norm, norm, 1e-9 * norm);
    experts.Step(/*with_nan=*/all.rank == 1);
    for (shardstep_optimizer* optimizer : {experts.dense(), experts.expert()}) {
      const shardstep_step_summary summary = experts.Finish(optimizer);
      EXPECT_EQ(summary.applied, 0);
      EXPECT_THAT(summary.why_skipped, AllOf(HasSubstr("\"precise\" of \"expert of rank 1\""), HasSubstr("rank 1")));
    }
  });
}

TEST_F(CRanksTest, TheLastOfThoseWhoDecideTogetherStillCan) {
  RunExperts([&](const shardstep_job& dense, const shardstep_job& all) {
    Experts experts(dense, all);
    experts.DestroyDense();
    EXPECT_C_ERROR(TakeStep(experts.expert()), SHARDSTEP_ABORTED, HasSubstr("\"dense\" was destroyed"));
  });
}

TEST_F(CRanksTest, DecisionsAreJoinedOnCpus) {
  const COptimizer optimizer = CreateC(kAlone, "");
  shardstep_optimizer* const optimizers[] = {optimizer.get()};
  const char* const names[] = {"alone"};
  shardstep_job job = SHARDSTEP_JOB_INIT;
  job.device = "cuda";
  EXPECT_C_ERROR(shardstep_join_decisions(&job, optimizers, names, 1), SHARDSTEP_UNIMPLEMENTED,
                 HasSubstr("job.device = \"cuda\""));
  EXPECT_C_ERROR(shardstep_join_decisions(&kAlone, optimizers, names, 0), SHARDSTEP_INVALID_ARGUMENT,
                 HasSubstr("count = 0"));
}

}  // namespace
}  // namespace shardstep
