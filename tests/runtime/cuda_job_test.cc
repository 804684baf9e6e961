// The whole optimizer on GPUs: the same bits as on CPUs and as the unsharded reference, by every transport, at every
// number of ranks.
#include "shardstep/tests/runtime/cuda_job.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "shardstep/comm/inproc/thread_rendezvous.h"
#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/runtime/joint_decision.h"

namespace shardstep {
namespace {

using testing::ElementsAre;
using testing::IsSupersetOf;
using Transport = CudaJob::Transport;

TrainingJob JobOf(int world_size) {
  TrainingJob job;
  job.world_size = world_size;
  job.max_norm = 0.5;
  job.options.bucket_bytes = 8192;
  return job;
}

class EveryTransport : public testing::TestWithParam<std::tuple<Transport, int>> {
 protected:
  static CudaJob Job() {
    const auto [transport, world_size] = GetParam();
    CudaJob cuda_job = {.job = JobOf(world_size), .transport = transport};
    if (transport == Transport::kNcclOnTwoLevels || transport == Transport::kStagedOnTwoLevels) {
      for (int rank = 0; rank < world_size; ++rank) cuda_job.job.host_of_rank.push_back(rank % 2);
    }
    return cuda_job;
  }
  static void ExpectTheReferencesBits(const CudaJob& cuda_job) {
    const TrainingResult result = RunCudaJob(cuda_job);
    const TrainingResult reference = RunReference(cuda_job.job);
    EXPECT_EQ(result.digests, reference.digests);
    EXPECT_TRUE(result == reference) << "records differ";
    EXPECT_LT(reference.records.back().clip_factor, 1.0) << "clipping is part of it";
  }
};

INSTANTIATE_TEST_SUITE_P(Nccl, EveryTransport,
                         testing::Combine(testing::Values(Transport::kNccl), testing::Range(1, 5)));
INSTANTIATE_TEST_SUITE_P(Staged, EveryTransport,
                         testing::Combine(testing::Values(Transport::kStaged), testing::Range(2, 5)));
INSTANTIATE_TEST_SUITE_P(TwoLevels, EveryTransport,
                         testing::Combine(testing::Values(Transport::kNcclOnTwoLevels, Transport::kStagedOnTwoLevels),
                                          testing::Values(4, 6)));

// Fewer micro-batches than places: some rank runs out of them.
TEST_P(EveryTransport, HasTheReferencesBits) {
  CudaJob cuda_job = Job();
  cuda_job.job.micro_batches = 11;
  ExpectTheReferencesBits(cuda_job);
}

// S1: operations of all streams are late at random.
TEST_P(EveryTransport, S1DelaysDoNotChangeABit) {
  CudaJob cuda_job = Job();
  cuda_job.job.finish_late = true;
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    cuda_job.cuda.delay_seed = seed;
    cuda_job.job.ready_order_seed = seed;
    ExpectTheReferencesBits(cuda_job);
  }
}

// Groups of micro-batches that span micro-steps and ranks, one micro-step alone, nothing looked for.
TEST_P(EveryTransport, SumsOfGroupsHaveTheReferencesBits) {
  CudaJob cuda_job = Job();
  cuda_job.job.options.sum_group = 2;
  ExpectTheReferencesBits(cuda_job);
}

TEST_P(EveryTransport, OnePassHasTheReferencesBits) {
  CudaJob cuda_job = Job();
  cuda_job.job.micro_batches = cuda_job.job.world_size;
  cuda_job.job.options.non_finite = NonFinitePolicy::kIgnore;
  cuda_job.job.max_norm.reset();
  EXPECT_EQ(RunCudaJob(cuda_job).digests, RunReference(cuda_job.job).digests);
}

// C3: all ranks skip the step, and its record names the element.
TEST_P(EveryTransport, C3ASkippedStepChangesNothing) {
  CudaJob cuda_job = Job();
  cuda_job.job.steps = 3;
  cuda_job.job.gradient = [](int64_t step, int64_t micro_batch, int p, int64_t i) {
    if (step == 1 && micro_batch == 7 && p == 4 && i == 1500) return ToBf16(std::nanf(""));
    return TrainingJob::MixedGradient(step, micro_batch, p, i);
  };
  const TrainingResult result = RunCudaJob(cuda_job);
  EXPECT_TRUE(result == RunReference(cuda_job.job));
  const StepRecord& record = result.records[1];
  EXPECT_FALSE(record.applied);
  EXPECT_EQ(record.applied_steps, 1);
  ASSERT_TRUE(record.non_finite.has_value());
  EXPECT_EQ(record.non_finite->parameter, "matrix");
  EXPECT_EQ(record.non_finite->element, 1500);
  EXPECT_EQ(record.non_finite->micro_batch, 7);
  EXPECT_EQ(record.non_finite->rank, 7 % cuda_job.job.world_size);
}

// Every rule and master, in two groups.
class EveryKind : public testing::TestWithParam<std::tuple<int, Master, Rounding>> {};
INSTANTIATE_TEST_SUITE_P(Kinds, EveryKind,
                         testing::Combine(testing::Range(0, 4),
                                          testing::Values(Master::kFp32, Master::kSplit, Master::kNone),
                                          testing::Values(Rounding::kNearest, Rounding::kStochastic)));

TEST_P(EveryKind, HasTheReferencesBits) {
  const auto [rule, master, rounding] = GetParam();
  if (master != Master::kNone && rounding == Rounding::kStochastic) return;  // refused by the options
  CudaJob cuda_job = {.job = JobOf(2)};
  GroupOptions& group = cuda_job.job.options.groups[0];
  if (rule == 1) group.rule = SgdOptions{.momentum = 0.9, .nesterov = true, .weight_decay = 0.1};
  if (rule == 2) group.rule = SgdOptions{};
  if (rule == 3) group.rule = LionOptions{.weight_decay = 0.1};
  group.master = master;
  group.rounding = rounding;
  EXPECT_TRUE(RunCudaJob(cuda_job) == RunReference(cuda_job.job));
}

// A graph takes its learning rate, its group's settings, its clip factor and whether it applies from the words of each
// step.
class ByGraph : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, ByGraph, testing::Values(1, 2, 3));

TEST_P(ByGraph, HasTheReferencesBits) {
  CudaJob cuda_job = {.job = JobOf(GetParam()), .by_graph = true};
  cuda_job.job.steps = 6;
  cuda_job.job.gradient = [](int64_t step, int64_t micro_batch, int p, int64_t i) {
    if (step == 3 && micro_batch == 2 && p == 0 && i == 5) return ToBf16(INFINITY);
    return TrainingJob::MixedGradient(step, micro_batch, p, i);
  };
  const auto settings = [](int64_t step) { return AdamWOptions{.weight_decay = 0.1 * static_cast<double>(step)}; };
  cuda_job.job.reference_settings = settings;
  cuda_job.job.before_step = [&](ShardedOptimizer& optimizer, int64_t step) {
    const absl::Status status = optimizer.SetGroup(0, {.rule = settings(step)});
    ASSERT_TRUE(status.ok()) << status;
  };
  const TrainingResult result = RunCudaJob(cuda_job);
  EXPECT_TRUE(result == RunReference(cuda_job.job));
  EXPECT_FALSE(result.records[3].applied);
  EXPECT_EQ(result.records[5].applied_steps, 5);
}

// docs/gpu.md: what a rank's device holds is the estimate and a few words, and a step allocates nothing.
TEST_P(EveryTransport, HoldsWhatIsEstimated) {
  CudaJob cuda_job = Job();
  cuda_job.job.steps = 2;
  cuda_job.job.parameters.push_back({.name = "frozen", .shape = {5000}, .frozen = true});
  std::atomic<int64_t> mallocs = 0;
  cuda_job.created = [&](FakeCuda& cuda, ShardedOptimizer& optimizer, int64_t bytes_before) {
    int64_t free_bytes = 0;
    int64_t total_bytes = 0;
    ASSERT_EQ(cuda.MemGetInfo(&free_bytes, &total_bytes), 0);
    const int64_t held_bytes = total_bytes - free_bytes - bytes_before;
    const MemoryEstimate estimate = optimizer.memory();
    EXPECT_EQ(estimate.weights_shared_bytes, 0);
    EXPECT_GE(held_bytes, estimate.rank_bytes());
    EXPECT_LE(held_bytes, estimate.rank_bytes() + 16384) << "segments and words";
    mallocs = cuda.calls("Malloc");
  };
  cuda_job.after = [&](FakeCuda& cuda) { EXPECT_EQ(cuda.calls("Malloc"), mallocs); };
  RunCudaJob(cuda_job);
}

TEST(CudaJobTest, JointDecisionsAreRefused) {
  CudaJob cuda_job = {.job = JobOf(1)};
  cuda_job.created = [](FakeCuda&, ShardedOptimizer& optimizer, int64_t) {
    ThreadRendezvousGroup group(1);
    const std::unique_ptr<Rendezvous> rendezvous = group.Join(0);
    auto communicator = CreateInprocCommunicator(*rendezvous, {});
    ASSERT_TRUE(communicator.ok());
    const absl::Status status =
        JoinDecisions(*std::move(communicator), rendezvous.get(), {JointMember{&optimizer, "model"}});
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("cuda:0 (Fake GPU)"));
  };
  RunCudaJob(cuda_job);
}

// NCCL's own sum has other bits, at fewer bytes, and every record says so.
TEST(CudaJobTest, NcclsReduceScatterIsNamed) {
  CudaJob cuda_job = {.job = JobOf(4), .exchange = NcclExchange::kReduceScatter};
  const TrainingResult result = RunCudaJob(cuda_job);
  EXPECT_THAT(result.records[0].inexact_modes, ElementsAre("nccl_reduce_scatter"));
  EXPECT_FALSE(result.digests == RunReference(cuda_job.job).digests);
  EXPECT_TRUE(result.records.back().applied);
}

// Profilers see the plan.
TEST(CudaJobTest, RangesAreNamedLikeTheNodes) {
  CudaJob cuda_job = {.job = JobOf(2)};
  cuda_job.after = [](FakeCuda& cuda) {
    std::vector<std::string> names;
    for (const auto& [name, count] : cuda.ranges()) names.push_back(name);
    EXPECT_THAT(names, IsSupersetOf({"Exchange(bucket 0, micro-step 0)", "Reduce(bucket 1, micro-step 5)", "Decide",
                                     "Update(bucket 0)", "Publish(bucket 0)"}));
  };
  RunCudaJob(cuda_job);
}

}  // namespace
}  // namespace shardstep
