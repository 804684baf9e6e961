// docs/memory.md: what it says, what is estimated, and what a process really gets.
#include "shardstep/runtime/memory_estimate.h"

#include <gtest/gtest.h>
#include <malloc.h>

#include <fstream>
#include <string>
#include <vector>

#include "shardstep/tests/comm/rank_threads.h"
#include "training_job.h"

namespace shardstep {
namespace {

constexpr int64_t kElements = int64_t{4} << 20;  // of all parameters
constexpr int kRanks = 2;

struct Case {
  std::string name;
  GroupOptions group;
  double owned_bytes;     ///< masters, moments and running sums, per owned parameter
  double rank_bytes;      ///< gradients and copies, per parameter
  double host_bytes = 2;  ///< shared weights, per parameter
  std::function<void(OptimizerOptions&, std::vector<ParameterSpec>&)> change = nullptr;
};

std::vector<ParameterSpec> Parameters() {
  return {{.name = "a", .shape = {kElements / 2}}, {.name = "b", .shape = {kElements / 2}}};
}

int64_t ResidentBytes() {
  malloc_trim(0);
  std::ifstream statm("/proc/self/statm");
  int64_t size = 0, resident = 0;
  statm >> size >> resident;
  return resident * 4096;
}

void OneStep(ShardedOptimizer& optimizer, int64_t micro_steps) {
  for (int64_t k = 0; k < micro_steps; ++k) {
    for (int p = optimizer.layout().parameter_count() - 1; p >= 0; --p) {
      if (optimizer.groups().frozen(p)) continue;
      ASSERT_TRUE(optimizer.GradientWritable(p).ok());
      std::fill(optimizer.gradient(p).begin(), optimizer.gradient(p).end(), ToBf16(1e-3f));
      std::fill(optimizer.fp32_gradient(p).begin(), optimizer.fp32_gradient(p).end(), 1e-3f);
      ASSERT_TRUE(optimizer.GradientReady(p).ok());
    }
    ASSERT_TRUE(optimizer.EndMicroStep().ok());
  }
  ASSERT_TRUE(optimizer.Step({.learning_rate = 1e-3}).ok());
  ASSERT_TRUE(optimizer.FinishStep().ok());
}

class MemoryTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    options_.bucket_bytes = 1 << 20;
    options_.groups = {GetParam().group};
    parameters_ = Parameters();
    if (GetParam().change) GetParam().change(options_, parameters_);
    const Case& c = GetParam();
    expected_ =
        static_cast<int64_t>(static_cast<double>(kElements) * (c.owned_bytes + c.rank_bytes * kRanks + c.host_bytes));
  }

  OptimizerOptions options_;
  std::vector<ParameterSpec> parameters_;
  int64_t expected_ = 0;  ///< of all ranks together
};

TEST_P(MemoryTest, TheEstimateIsWhatTheDocumentSays) {
  const auto estimate = ShardedOptimizer::EstimateMemory(options_, parameters_, kRanks);
  ASSERT_TRUE(estimate.ok()) << estimate.status();
  EXPECT_EQ(kRanks * estimate->rank_bytes() + estimate->weights_shared_bytes, expected_);
}

TEST_P(MemoryTest, AProcessGetsWhatIsEstimated) {
  const int64_t before = ResidentBytes();
  int64_t after = 0;
  RunRankThreads(kRanks, [&](Rendezvous& rendezvous) {
    TrainingJob job;
    job.options = options_;
    auto optimizer = ShardedOptimizer::Create(options_, parameters_, MakeLevels(job, rendezvous), &rendezvous);
    ASSERT_TRUE(optimizer.ok()) << optimizer.status();
    ASSERT_TRUE(
        (*optimizer)
            ->Initialize([](int, int64_t, absl::Span<float> values) { std::fill(values.begin(), values.end(), 1.0f); })
            .ok());
    OneStep(**optimizer, options_.micro_steps);
    const MemoryEstimate memory = (*optimizer)->memory();
    EXPECT_EQ(kRanks * memory.rank_bytes() + memory.weights_shared_bytes, expected_);
    ASSERT_TRUE(rendezvous.AllGatherBytes("step done", "", absl::Minutes(1)).ok());
    if (rendezvous.rank() == 0) after = ResidentBytes();
    ASSERT_TRUE(rendezvous.AllGatherBytes("measured", "", absl::Minutes(1)).ok());
  });
  // Stacks, heaps of threads, pages that are touched in part.
  EXPECT_NEAR(static_cast<double>(after - before), static_cast<double>(expected_),
              0.03 * static_cast<double>(expected_) + 4e6);
}

using Specs = std::vector<ParameterSpec>;
void TwoMicroSteps(OptimizerOptions& options, Specs&) { options.micro_steps = 2; }
void StraddlingGroups(OptimizerOptions& options, Specs&) {
  options.micro_steps = 2;
  options.sum_group = 3;
}
void Private(OptimizerOptions& options, Specs&) { options.weights = WeightCopies::kPrivate; }
void Local(OptimizerOptions& options, Specs&) {
  options.accumulation = Accumulation::kLocal;
  options.micro_steps = 2;
}
void HalfFrozen(OptimizerOptions&, Specs& parameters) { parameters[0].frozen = true; }
void Fp32(OptimizerOptions&, Specs& parameters) {
  for (ParameterSpec& parameter : parameters) parameter.weight_dtype = parameter.gradient_dtype = DType::kFp32;
}

const Case kCases[] = {
    {"AdamW", {}, 12, 2},
    {"AdamWMicroSteps", {}, 16, 2, 2, TwoMicroSteps},
    {"AdamWStraddlingGroups", {}, 20, 2, 2, StraddlingGroups},
    {"AdamWSplit", {.master = Master::kSplit}, 10, 2},
    {"AdamWNone", {.master = Master::kNone}, 8, 2},
    {"AdamWFp32Weights", {}, 8, 4, 4, Fp32},
    {"AdamWPrivate", {}, 12, 4, 0, Private},
    {"AdamWLocal", {}, 12, 6, 2, Local},
    {"AdamWHalfFrozen", {}, 6, 1, 2, HalfFrozen},
    {"Sgd", {.rule = SgdOptions()}, 4, 2},
    {"SgdMomentum", {.rule = SgdOptions{.momentum = 0.9}}, 8, 2},
    {"LionSplit", {.rule = LionOptions(), .master = Master::kSplit}, 6, 2},
};
INSTANTIATE_TEST_SUITE_P(Documented, MemoryTest, ::testing::ValuesIn(kCases),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace shardstep
