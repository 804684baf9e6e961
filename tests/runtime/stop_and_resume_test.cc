// Whole runs that stop, save, load on another number of ranks and go on.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/runtime/sharded_optimizer.h"
#include "shardstep/tests/comm/rank_threads.h"
#include "training_job.h"

namespace shardstep {
namespace {

// K1, K2: train, save, load at another world size, train 10 steps more: the same bits as without the stop.
TEST(StopAndResume, K1K2StopAndResumeAtAnotherWorldSize) {
  TrainingJob job;
  job.steps = 13;
  job.max_norm = 0.5;
  job.options.bucket_bytes = 1;
  const TrainingResult whole = RunReference(job);
  const std::filesystem::path root = std::filesystem::path(::testing::TempDir()) / "stop_and_resume";
  for (const int before : {1, 2, 3, 4}) {
    for (const int after : {1, 2, 3, 4}) {
      std::filesystem::remove_all(root);
      std::vector<StepRecord> records;
      for (const int n : {before, -after}) {
        job.world_size = std::abs(n);
        RunRankThreads(job.world_size, [&](Rendezvous& rendezvous) {
          OptimizerOptions options = job.options;
          options.micro_steps = job.micro_steps();
          auto communicator = CreateInprocCommunicator(rendezvous, {});
          ASSERT_TRUE(communicator.ok()) << communicator.status();
          auto created = ShardedOptimizer::Create(options, job.parameters, *std::move(communicator), &rendezvous);
          ASSERT_TRUE(created.ok()) << created.status();
          const std::unique_ptr<ShardedOptimizer> optimizer = *std::move(created);
          std::vector<StepRecord> mine;
          if (n > 0) {
            ASSERT_TRUE(optimizer
                            ->Initialize([](int p, int64_t begin, absl::Span<float> values) {
                              for (size_t i = 0; i < values.size(); ++i)
                                values[i] = TrainingJob::InitialValue(p, begin + i);
                            })
                            .ok());
            Train(job, *optimizer, 0, 3, &mine);
            const absl::Status saved = optimizer->Save(root, "three steps");
            ASSERT_TRUE(saved.ok()) << saved;
          } else {
            std::vector<std::string> warnings;
            const auto caller_state = optimizer->Load(root, &warnings);
            ASSERT_TRUE(caller_state.ok()) << caller_state.status();
            EXPECT_EQ(*caller_state, "three steps");
            EXPECT_EQ(optimizer->counters().step, 3);
            Train(job, *optimizer, 3, 10, &mine);
            EXPECT_EQ(mine.back().applied_steps, 13);
            const auto digests = optimizer->Digests();
            ASSERT_TRUE(digests.ok());
            EXPECT_EQ(digests->weights.ToHex(), whole.digests.weights) << before << " to " << after;
            EXPECT_EQ(digests->master.ToHex(), whole.digests.master);
            EXPECT_EQ(digests->first_moment.ToHex(), whole.digests.first_moment);
            EXPECT_EQ(digests->second_moment.ToHex(), whole.digests.second_moment);
          }
        });
      }
    }
  }
  std::filesystem::remove_all(root);
}

}  // namespace
}  // namespace shardstep
