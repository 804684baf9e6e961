// Norms of single parameters, on request: the same bits at every number of ranks, on CPUs and on GPUs.
#include "shardstep/runtime/parameter_norms.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "shardstep/tests/runtime/cuda_job.h"

namespace shardstep {
namespace {

TrainingJob JobOf(int world_size) {
  TrainingJob job;
  job.world_size = world_size;
  job.steps = 3;
  job.options.bucket_bytes = 8192;
  job.options.parameter_norms = true;
  job.gradient = [](int64_t step, int64_t micro_batch, int p, int64_t i) {
    if (step == 1 && micro_batch == 3 && p == 1 && i == 2) return ToBf16(INFINITY);
    return TrainingJob::MixedGradient(step, micro_batch, p, i);
  };
  return job;
}

// What a loop over all gradients finds.
std::vector<double> NormsOf(const TrainingJob& job, int64_t step) {
  std::vector<double> norms;
  for (int p = 0; p < static_cast<int>(job.parameters.size()); ++p) {
    double squares = 0;
    for (int64_t i = 0; i < *ElementCount(job.parameters[p]); ++i) {
      float sum = 0;
      for (int64_t j = 0; j < job.micro_batches; ++j) sum += ToFloat(job.gradient(step, j, p, i));
      squares += double{sum} * sum;
    }
    norms.push_back(std::sqrt(squares) / static_cast<double>(job.micro_batches));
  }
  return norms;
}

void ExpectNorms(const TrainingJob& job, const std::vector<StepRecord>& records) {
  for (const int64_t step : {0, 2}) {
    const StepRecord& record = records[step];
    const std::vector<double> expected = NormsOf(job, step);
    ASSERT_EQ(record.parameter_norms.size(), expected.size());
    double squares = 0;
    for (size_t p = 0; p < expected.size(); ++p) {
      EXPECT_NEAR(record.parameter_norms[p], expected[p], expected[p] * 1e-12) << job.parameters[p].name;
      squares += record.parameter_norms[p] * record.parameter_norms[p];
    }
    EXPECT_NEAR(std::sqrt(squares), *record.gradient_norm, *record.gradient_norm * 1e-12);
  }
  EXPECT_THAT(records[1].parameter_norms, testing::IsEmpty()) << "a skipped step has none";
}

TEST(ParameterNormsTest, AreThoseOfALoopAtEveryNumberOfRanks) {
  const TrainingResult alone = RunTrainingJob(JobOf(1));
  ExpectNorms(JobOf(1), alone.records);
  for (const int world_size : {2, 3, 5}) {
    const TrainingResult result = RunTrainingJob(JobOf(world_size));
    EXPECT_EQ(result.records[0].parameter_norms, alone.records[0].parameter_norms);
    EXPECT_EQ(result.records[2].parameter_norms, alone.records[2].parameter_norms);
    EXPECT_EQ(result.digests, alone.digests);
  }
}

TEST(ParameterNormsTest, HaveTheSameBitsOnGpus) {
  const TrainingResult alone = RunTrainingJob(JobOf(1));
  for (const int world_size : {1, 2}) {
    const TrainingResult result = RunCudaJob({.job = JobOf(world_size)});
    EXPECT_EQ(result.records[0].parameter_norms, alone.records[0].parameter_norms);
    EXPECT_EQ(result.digests, alone.digests);
    ExpectNorms(JobOf(world_size), result.records);
  }
}

TEST(ParameterNormsTest, AreThereOnRequestOnly) {
  TrainingJob job = JobOf(2);
  job.options.parameter_norms = false;
  EXPECT_THAT(RunTrainingJob(job).records[0].parameter_norms, testing::IsEmpty());
}

}  // namespace
}  // namespace shardstep
