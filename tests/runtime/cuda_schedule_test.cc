// S4 on GPUs: every cudaStreamWaitEvent of a step is needed, and nothing that is needed is missing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "absl/strings/str_join.h"
#include "shardstep/tests/runtime/cuda_job.h"

namespace shardstep {
namespace {

struct Case {
  std::string name;
  int world_size = 1;
  int64_t micro_batches = 1;
  std::vector<int> host_of_rank;
  bool one_pass = false;
};

class CudaScheduleTest : public testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(Jobs, CudaScheduleTest,
                         testing::Values(Case{"OneRank", 1, 1}, Case{"OneRankSeveralMicroSteps", 1, 3},
                                         Case{"TwoRanks", 2, 2}, Case{"TwoRanksSeveralMicroSteps", 2, 6},
                                         Case{"TwoRanksOnePass", 2, 2, {}, true},
                                         Case{"TwoLevels", 4, 8, {0, 1, 0, 1}}),
                         [](const auto& of) { return of.param.name; });

TEST_P(CudaScheduleTest, S4EveryWaitIsNeeded) {
  const Case& c = GetParam();
  CudaJob cuda_job;
  TrainingJob& job = cuda_job.job;
  job.world_size = c.world_size;
  job.micro_batches = c.micro_batches;
  job.host_of_rank = c.host_of_rank;
  job.steps = 4;
  job.finish_late = true;
  job.options.bucket_bytes = 8192;
  // One bucket each: buckets that a gradient completes together would wait for it together.
  job.parameters = {{.name = "a", .shape = {4096}}, {.name = "b", .shape = {4096}}, {.name = "c", .shape = {4096}}};
  if (c.one_pass) job.options.non_finite = NonFinitePolicy::kIgnore;
  if (!c.host_of_rank.empty()) cuda_job.transport = CudaJob::Transport::kNcclOnTwoLevels;
  // A trainer that does all that it may: it uses weights after its last gradient; its last rank once has no data, and
  // later needs no weights for its gradients.
  const int last = c.world_size - 1;
  cuda_job.reads_weights_late = [](int64_t step) { return step < 2; };
  job.unused = [&](int64_t step, int64_t micro_batch, int) {
    return step == 1 && c.world_size > 1 && micro_batch % c.world_size == last;
  };
  std::atomic<int64_t> micro_steps_of_last = 0;
  job.uses_no_weights = [&](int rank) { return rank == last && micro_steps_of_last++ >= 2 * job.micro_steps(); };
  cuda_job.landing_buckets = 2;  // fewer than buckets: a slot is another bucket's next
  cuda_job.cuda.record = true;
  cuda_job.after = [](FakeCuda& cuda) {
    EXPECT_GT(cuda.access_count(), 50);
    EXPECT_EQ(absl::StrJoin(cuda.Problems(), "\n"), "");
    EXPECT_GT(cuda.waits().size(), 8u);
    for (const std::string& wait : cuda.waits()) {
      if (wait.starts_with("wait") || wait.starts_with("end")) continue;  // of creation and end: the host waits too
      // Step waits for the last weights that have left this rank, because not every communicator has what NCCL has: the
      // all-reduce, before anything is overwritten, comes after all earlier operations.
      if (wait == "Step(0) of micro-step 0 wait 0") continue;
      EXPECT_FALSE(cuda.Problems({wait}).empty()) << wait << " is redundant";
    }
  };
  RunCudaJob(cuda_job);
}

}  // namespace
}  // namespace shardstep
