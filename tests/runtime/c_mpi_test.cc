// The C interface of ranks that mpirun started: several optimizers of one process share MPI, and decide together.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "c_trainer.h"

namespace shardstep {
namespace {

shardstep_job Mpi() {
  shardstep_job job = SHARDSTEP_JOB_INIT;
  job.meet = SHARDSTEP_MEET_MPI;
  return job;
}

TEST(CMpiTest, OptimizersComeAndGoWhileOneIsLeft) {
  const COptimizer second = CreateInitialized(Mpi(), "micro_steps: 2");
  ASSERT_NE(second, nullptr);
  {
    const COptimizer first = CreateInitialized(Mpi(), "micro_steps: 2");
    shardstep_optimizer* const optimizers[] = {first.get(), second.get()};
    const char* const names[] = {"first", "second"};
    const shardstep_job job = Mpi();
    ASSERT_C_OK(shardstep_join_decisions(&job, optimizers, names, 2));
    const int64_t ranks = shardstep_world_size(first.get());
    shardstep_step_arguments arguments = SHARDSTEP_STEP_ARGUMENTS_INIT;
    arguments.learning_rate = 0.01;
    for (shardstep_optimizer* optimizer : optimizers) {
      for (int64_t k = 0; k < 2; ++k) {
        const int64_t micro_batch = k * ranks + shardstep_rank(optimizer);
        for (int32_t p = 0; p < 3; ++p) WriteGradient(optimizer, p, 0, micro_batch, /*with_nan=*/k == 1 && p == 2);
        ASSERT_C_OK(shardstep_end_micro_step(optimizer));
      }
      ASSERT_C_OK(shardstep_step(optimizer, &arguments));
    }
    for (shardstep_optimizer* optimizer : optimizers) {
      shardstep_step_summary summary = SHARDSTEP_STEP_SUMMARY_INIT;
      ASSERT_C_OK(shardstep_finish_step(optimizer, nullptr, nullptr));
      ASSERT_C_OK(shardstep_summarize_step(optimizer, &summary));
      EXPECT_EQ(summary.applied, 0);
      EXPECT_THAT(summary.why_skipped, testing::HasSubstr("\"precise\" of \"first\""));
    }
  }
  const COptimizer third = CreateInitialized(Mpi(), "micro_steps: 2");
  ASSERT_NE(third, nullptr);
  TrainC(third.get(), 0, 2, /*micro_batches=*/2 * shardstep_world_size(third.get()));
}

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
