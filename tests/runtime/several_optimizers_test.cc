// Several optimizers in one process, on all ranks or on some, and what copies of the weights there are.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "shardstep/comm/inproc/thread_rendezvous.h"
#include "shardstep/comm/mutex.h"
#include "shardstep/tests/comm/rank_threads.h"
#include "training_job.h"

namespace shardstep {
namespace {

std::unique_ptr<ShardedOptimizer> Create(const TrainingJob& job, Rendezvous& rendezvous) {
  OptimizerOptions options = job.options;
  options.micro_steps = job.micro_steps();
  auto optimizer = ShardedOptimizer::Create(options, job.parameters, MakeLevels(job, rendezvous), &rendezvous);
  EXPECT_TRUE(optimizer.ok()) << optimizer.status();
  const absl::Status initialized = (*optimizer)->Initialize([](int p, int64_t begin, absl::Span<float> values) {
    for (size_t i = 0; i < values.size(); ++i) values[i] = TrainingJob::InitialValue(p, begin + i);
  });
  EXPECT_TRUE(initialized.ok()) << initialized;
  return *std::move(optimizer);
}

// Two optimizers of every rank, step by step in turns: each ends as if it were alone.
TEST(SeveralOptimizers, TwoInOneProcess) {
  TrainingJob first;
  first.world_size = 2;
  TrainingJob second = first;
  second.options.groups[0].rule = LionOptions();
  second.options.bucket_bytes = 1;
  const TrainingResult first_alone = RunTrainingJob(first);
  const TrainingResult second_alone = RunTrainingJob(second);
  RunRankThreads(2, [&](Rendezvous& rendezvous) {
    const auto one = Create(first, rendezvous);
    const auto other = Create(second, rendezvous);
    std::vector<StepRecord> records;
    for (int64_t step = 0; step < first.steps; ++step) {
      Train(first, *one, step, 1, &records);
      Train(second, *other, step, 1, &records);
    }
    EXPECT_EQ(one->Digests()->master.ToHex(), first_alone.digests.master);
    EXPECT_EQ(other->Digests()->master.ToHex(), second_alone.digests.master);
  });
}

// L5: ranks 3 and 1 of four, in this order, train on their own; the others do something else.
TEST(SeveralOptimizers, L5SomeRanksInAnotherOrder) {
  TrainingJob job;
  job.world_size = 2;
  const TrainingResult expected = RunTrainingJob(job);
  ThreadRendezvousGroup group(2);
  RunRankThreads(4, [&](Rendezvous& everyone) {
    if (everyone.rank() % 2 == 0) return;
    const std::unique_ptr<Rendezvous> rendezvous = group.Join(everyone.rank() == 3 ? 0 : 1);
    const auto optimizer = Create(job, *rendezvous);
    std::vector<StepRecord> records;
    Train(job, *optimizer, 0, job.steps, &records);
    EXPECT_EQ(optimizer->Digests()->master.ToHex(), expected.digests.master);
  });
}

TEST(WeightCopies, OnceOrOncePerRank) {
  for (const WeightCopies copies : {WeightCopies::kShared, WeightCopies::kPrivate}) {
    Mutex mutex;
    std::set<const Bf16*> addresses;
    RunRankThreads(3, [&](Rendezvous& rendezvous) {
      TrainingJob job;
      job.world_size = 3;
      job.options.weights = copies;
      const auto optimizer = Create(job, rendezvous);
      MutexLock lock(&mutex);
      addresses.insert(optimizer->weights(0).data());
      const MemoryEstimate memory = optimizer->memory();
      EXPECT_EQ(memory.weights_shared_bytes > 0, copies == WeightCopies::kShared);
      EXPECT_EQ(memory.weights_private_bytes > 0, copies == WeightCopies::kPrivate);
    });
    EXPECT_EQ(addresses.size(), copies == WeightCopies::kShared ? 1u : 3u);
  }
}

}  // namespace
}  // namespace shardstep
