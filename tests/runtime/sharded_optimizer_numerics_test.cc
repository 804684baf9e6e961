// Whole steps on ranks that are threads, judged by the unsharded reference: the same bits at every world size.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

#include "shardstep/runtime/sharded_optimizer.h"
#include "shardstep/tests/comm/delaying_communicator.h"
#include "training_job.h"

namespace shardstep {
namespace {

TrainingJob SmallBuckets() {
  TrainingJob job;
  job.options.bucket_bytes = 1;  // one block per rank
  job.options.groups = {
      {.rule = AdamWOptions{.beta1 = 0.9, .beta2 = 0.95, .weight_decay = 0.1}},
      {.rule =
           AdamWOptions{.beta1 = 0.8, .beta2 = 0.99, .epsilon = 1e-6, .weight_decay = 0, .learning_rate_factor = 2}}};
  for (size_t p = 0; p < job.parameters.size(); ++p) job.parameters[p].group = static_cast<int>(p % 2);
  return job;
}

void ExpectSameAsReference(TrainingJob job, const std::vector<int>& world_sizes) {
  const TrainingResult reference = RunReference(job);
  for (const int n : world_sizes) {
    job.world_size = n;
    const TrainingResult result = RunTrainingJob(job);
    EXPECT_EQ(result.digests, reference.digests) << n << " ranks";
    EXPECT_TRUE(result == reference) << n << " ranks: records differ";
  }
}

// N1: 50 steps, clipping active.
TEST(ShardedOptimizerNumerics, N1SameBitsAtEveryWorldSize) {
  TrainingJob job = SmallBuckets();
  job.steps = 50;
  job.max_norm = 0.5;
  const TrainingResult reference = RunReference(job);
  EXPECT_LT(reference.records.back().clip_factor, 1);
  ExpectSameAsReference(job, {1, 2, 3, 4, 5, 8});
}

TEST(ShardedOptimizerNumerics, N1RaggedMicroBatches) {
  TrainingJob job = SmallBuckets();
  job.micro_batches = 11;
  job.steps = 6;
  job.max_norm = 0.5;
  ExpectSameAsReference(job, {1, 2, 3, 4, 5, 11});
}

TEST(ShardedOptimizerNumerics, OnePassSameBits) {
  TrainingJob job = SmallBuckets();
  job.options.non_finite = NonFinitePolicy::kIgnore;
  TrainingJob looking = SmallBuckets();
  const TrainingResult reference = RunReference(looking);
  for (const int n : {1, 2, 3, 12}) {
    job.world_size = n;
    EXPECT_EQ(RunTrainingJob(job).digests, reference.digests) << n << " ranks";
  }
}

// Groups of micro-batches that span micro-steps, read in two passes or one, and ragged.
TEST(ShardedOptimizerNumerics, GroupsOfMicroBatchesSpanMicroSteps) {
  for (const int64_t group : {2, 3, 5}) {
    for (const int64_t micro_batches : {11, 12}) {
      TrainingJob job = SmallBuckets();
      job.steps = 2;
      job.micro_batches = micro_batches;
      job.options.sum_group = group;
      const TrainingResult reference = RunReference(job);
      ExpectSameAsReference(job, {1, 2, 3, 4});
      job.options.non_finite = NonFinitePolicy::kIgnore;
      for (const int n : {1, 2, 3, 4}) {
        job.world_size = n;
        EXPECT_EQ(RunTrainingJob(job).digests, reference.digests) << n << " ranks, groups of " << group;
      }
    }
  }
}

TEST(ShardedOptimizerNumerics, BucketSizeAndThreadsDoNotShow) {
  TrainingJob job = SmallBuckets();
  job.steps = 3;
  job.max_norm = 0.5;
  for (const int64_t bucket_bytes : {1, 5000, 1 << 20}) {
    for (const int threads : {1, 3}) {
      job.options.bucket_bytes = bucket_bytes;
      job.options.update_threads = threads;
      ExpectSameAsReference(job, {2, 3});
    }
  }
}

// L2: fewer elements than ranks, empty and scalar parameters, a whole model of nothing.
TEST(ShardedOptimizerNumerics, L2FewerElementsThanRanks) {
  TrainingJob job;
  job.parameters = {{.name = "scalar", .shape = {}}, {.name = "empty", .shape = {0}}, {.name = "pair", .shape = {2}}};
  ExpectSameAsReference(job, {1, 3, 8});
  job.parameters = {{.name = "empty", .shape = {4, 0}}};
  ExpectSameAsReference(job, {1, 2});
}

// S1: one rank delayed at random before any stage (a gradient, and around every kernel because every operation between
// ranks is delayed on its stream), and then all ranks; 200 seeds each way.
TEST(ShardedOptimizerNumerics, S1DelaysDoNotShow) {
  TrainingJob job;
  job.options.bucket_bytes = 4096 * 2 * 3;
  job.world_size = 3;
  job.micro_batches = 5;
  job.steps = 2;
  job.max_norm = 0.5;
  const TrainingResult reference = RunReference(job);
  for (uint64_t seed = 0; seed < 200; ++seed) {
    job.ready_order_seed = seed;
    for (const int late_rank : {static_cast<int>(seed % 3), -1}) {
      std::atomic<uint64_t> gradients = 0;
      job.before_gradient = [&](int rank) {
        if (late_rank >= 0 && rank != late_rank) return;
        std::this_thread::sleep_for(std::chrono::microseconds((seed + ++gradients) * 7919 % 100));
      };
      job.wrap = [&](std::unique_ptr<Communicator> inner, int) -> std::unique_ptr<Communicator> {
        return std::make_unique<DelayingCommunicator>(
            std::move(inner), DelayOptions{.seed = seed, .max_delay_us = 150, .rank = late_rank});
      };
      ASSERT_EQ(RunTrainingJob(job).digests, reference.digests) << "seed " << seed << ", late rank " << late_rank;
    }
  }
}

// S2: every rank marks gradients in another order, and another one in each micro-step.
TEST(ShardedOptimizerNumerics, S2OrderOfReadinessDoesNotShow) {
  TrainingJob job = SmallBuckets();
  for (const uint64_t seed : {1, 2, 3, 4, 5}) {
    job.ready_order_seed = seed;
    ExpectSameAsReference(job, {2, 4});
  }
}

// S5: micro-steps accumulate to the same bits as the same micro-batches over more ranks.
TEST(ShardedOptimizerNumerics, S5MicroStepsEqualOneLargeBatch) {
  TrainingJob job = SmallBuckets();
  for (const int64_t micro_batches : {1, 2, 5, 9}) {
    job.micro_batches = micro_batches;
    ExpectSameAsReference(job, {1, 2, 3, 9});
  }
}

// S7, M4: ranks without micro-batches left and parameters without gradients contribute zeros.
TEST(ShardedOptimizerNumerics, S7RanksWithoutDataContributeZeros) {
  TrainingJob job = SmallBuckets();
  job.micro_batches = 2;
  job.unused_last_parameter = true;
  ExpectSameAsReference(job, {1, 2, 5});
}

// C1: the norm is that of the exact sum, within 1 ulp of fp32 of a long-double one, and the clip is not vacuous.
TEST(ShardedOptimizerNumerics, C1NormAgreesWithLongDouble) {
  TrainingJob job = SmallBuckets();
  job.steps = 1;
  job.micro_batches = 4;
  job.world_size = 2;
  job.max_norm = 0.25;
  const TrainingResult result = RunTrainingJob(job);
  long double sum = 0;
  for (int p = 0; p < static_cast<int>(job.parameters.size()); ++p) {
    for (int64_t i = 0; i < *ElementCount(job.parameters[p]); ++i) {
      float s = 0;
      for (int64_t j = 0; j < 4; ++j) s += ToFloat(job.gradient(0, j, p, i));
      sum += static_cast<long double>(s) * s;
    }
  }
  const float oracle = static_cast<float>(std::sqrt(sum) / 4);
  const float norm = static_cast<float>(result.records[0].gradient_norm.value());
  EXPECT_LE(std::abs(norm - oracle), std::nextafter(oracle, INFINITY) - oracle);
  EXPECT_LT(result.records[0].clip_factor, 0.9);
}

// C5: finite gradients whose square overflows fp32 have a finite norm.
TEST(ShardedOptimizerNumerics, C5SquareOverflowsFp32) {
  TrainingJob job = SmallBuckets();
  job.steps = 2;
  job.micro_batches = 2;
  job.max_norm = 1.0;
  job.gradient = [](int64_t, int64_t, int, int64_t element) { return ToBf16(element % 2 ? 1e30f : -3e29f); };
  const TrainingResult reference = RunReference(job);
  EXPECT_GT(reference.records[0].gradient_norm.value(), 1e30);
  EXPECT_TRUE(reference.records[0].applied);
  ExpectSameAsReference(job, {1, 2});
}

// C3: one NaN on one rank; the step changes no bit on any rank, and the record names the place.
TEST(ShardedOptimizerNumerics, C3OneNanSkipsTheStepEverywhere) {
  TrainingJob job = SmallBuckets();
  job.steps = 3;
  job.max_norm = 1.0;
  const auto poisoned = [](int64_t step, int64_t micro_batch, int parameter, int64_t element) {
    if (step == 1 && micro_batch == 7 && parameter == 4 && element == 1500) return Bf16{0x7f80};
    if (step == 1 && micro_batch == 7 && parameter == 5 && element == 3) return Bf16{0xffc1};
    if (step == 1 && micro_batch == 9 && parameter == 0 && element == 0) return Bf16{0x7fc0};
    return TrainingJob::MixedGradient(step, micro_batch, parameter, element);
  };
  job.gradient = poisoned;
  for (const int n : {1, 2, 3, 4, 12}) {
    job.world_size = n;
    const TrainingResult result = RunTrainingJob(job);
    EXPECT_EQ(result.digests, RunReference(job).digests) << n;
    const StepRecord& record = result.records[1];
    EXPECT_FALSE(record.applied);
    EXPECT_EQ(record.step, 2);
    EXPECT_EQ(record.applied_steps, 1);
    ASSERT_TRUE(record.non_finite.has_value());
    EXPECT_EQ(record.non_finite->micro_batch, 7);
    EXPECT_EQ(record.non_finite->rank, 7 % n);
    EXPECT_EQ(record.non_finite->parameter, "matrix");
    EXPECT_EQ(record.non_finite->element, 1500);
    EXPECT_FALSE(record.non_finite->sum_overflow);
    EXPECT_EQ(result.records[2].applied_steps, 2);
    EXPECT_EQ(result.records[2].consecutive_skips, 0);
    EXPECT_EQ(result.records[2].skipped_steps, 1);
  }
}

TEST(ShardedOptimizerNumerics, C3SumOfFiniteSlicesOverflows) {
  TrainingJob job = SmallBuckets();
  job.steps = 1;
  job.gradient = [](int64_t, int64_t micro_batch, int parameter, int64_t element) {
    return parameter == 6 && element == 2999 && micro_batch < 2 ? ToBf16(3e38f) : ToBf16(1.0f);
  };
  for (const int n : {1, 2, 3, 12}) {
    job.world_size = n;
    const StepRecord record = RunTrainingJob(job).records[0];
    ASSERT_TRUE(record.non_finite.has_value());
    EXPECT_TRUE(record.non_finite->sum_overflow);
    EXPECT_EQ(record.non_finite->micro_batch, 1);
    EXPECT_EQ(record.non_finite->parameter, "head");
    EXPECT_EQ(record.non_finite->element, 2999);
  }
}

}  // namespace
}  // namespace shardstep
