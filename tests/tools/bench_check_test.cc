#include "shardstep/tools/bench/bench_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/runtime/sharded_optimizer.h"
#include "shardstep/tests/comm/rank_threads.h"
#include "shardstep/tools/bench/bench_model.h"

namespace shardstep {
namespace {

constexpr int kRanks = 2;
constexpr int64_t kSteps = 3;
using Weights = std::vector<std::vector<Bf16>>;

BenchOptions Options(std::vector<ParameterSpec> parameters, const GroupOptions& group = {}) {
  BenchOptions options;
  options.parameters = std::move(parameters);
  options.optimizer.groups = {group};
  return options;
}

std::vector<ParameterSpec> TwoParameters() {
  return {{.name = "matrix", .shape = {33, 65}}, {.name = "bias", .shape = {7}}};
}

void Train(const BenchOptions& options, ShardedOptimizer& optimizer) {
  const int parameters = optimizer.layout().parameter_count();
  ASSERT_TRUE(optimizer
                  .Initialize([](int p, int64_t begin, absl::Span<float> values) {
                    for (size_t i = 0; i < values.size(); ++i) values[i] = BenchMaster(p, begin + i);
                  })
                  .ok());
  for (int64_t step = 0; step < kSteps; ++step) {
    for (int64_t k = 0; k < options.optimizer.micro_steps; ++k) {
      for (int p = parameters - 1; p >= 0; --p) {
        ASSERT_TRUE(optimizer.GradientWritable(p).ok());
        const absl::Span<Bf16> gradient = optimizer.gradient(p);
        for (size_t i = 0; i < gradient.size(); ++i) gradient[i] = BenchGradient(optimizer.rank(), p, i);
        ASSERT_TRUE(optimizer.GradientReady(p).ok());
      }
      ASSERT_TRUE(optimizer.EndMicroStep().ok());
    }
    ASSERT_TRUE(optimizer.Step({.learning_rate = kBenchLearningRate, .max_norm = options.max_norm}).ok());
    const absl::StatusOr<StepRecord> record = optimizer.FinishStep();
    ASSERT_TRUE(record.ok()) << record.status();
    ASSERT_TRUE(record->applied);
    ASSERT_EQ(record->clip_factor < 1, options.max_norm.has_value());
  }
}

// What the library has at the end, on rank 0.
Weights LibraryWeights(const BenchOptions& options) {
  Weights weights;
  RunRankThreads(kRanks, [&](Rendezvous& rendezvous) {
    auto communicator = CreateInprocCommunicator(rendezvous, {});
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    CommunicatorLevels levels;
    levels.host = *std::move(communicator);
    auto optimizer = ShardedOptimizer::Create(options.optimizer, options.parameters, std::move(levels), &rendezvous);
    ASSERT_TRUE(optimizer.ok()) << optimizer.status();
    ASSERT_NO_FATAL_FAILURE(Train(options, **optimizer));
    for (int p = 0; rendezvous.rank() == 0 && p < (*optimizer)->layout().parameter_count(); ++p) {
      ASSERT_TRUE((*optimizer)->WeightsReady(p).ok());
      const absl::Span<const Bf16> values = (*optimizer)->weights(p);
      weights.emplace_back(values.begin(), values.end());
    }
  });
  return weights;
}

int64_t CountWrong(const Weights& expected, const Weights& actual) {
  return CountWrong(expected, [&](int p) { return absl::MakeConstSpan(actual[p]); });
}

void ExpectSame(const BenchOptions& options) {
  const absl::StatusOr<Weights> expected = ReferenceWeights(options, kRanks, kSteps);
  ASSERT_TRUE(expected.ok()) << expected.status();
  const Weights actual = LibraryWeights(options);
  ASSERT_EQ(actual.size(), options.parameters.size());
  EXPECT_EQ(CountWrong(*expected, actual), 0);
}

struct Case {
  GroupOptions group;
  bool clip = false;
};

std::string CaseName(const testing::TestParamInfo<Case>& info) {
  const GroupOptions& group = info.param.group;
  return absl::StrCat(Name(group.kind().rule), Name(group.master), info.param.clip ? "Clipped" : "");
}

std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (const Master master : {Master::kFp32, Master::kSplit}) {
    for (const bool clip : {false, true}) {
      cases.push_back({{.rule = AdamWOptions(), .master = master}, clip});
      cases.push_back({{.rule = SgdOptions(), .master = master}, clip});
      cases.push_back({{.rule = LionOptions(), .master = master}, clip});
    }
  }
  return cases;
}

void PrintTo(const Case& c, std::ostream* out) { *out << DescribeGroup(c.group) << (c.clip ? ", clipped" : ""); }

class BenchCheckTest : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(All, BenchCheckTest, testing::ValuesIn(AllCases()), CaseName);

TEST_P(BenchCheckTest, TheLibraryHasTheReferencesWeights) {
  const absl::StatusOr<std::vector<ParameterSpec>> flat = MakeBenchModel("flat:5000");
  ASSERT_TRUE(flat.ok()) << flat.status();
  for (const std::vector<ParameterSpec>& parameters : {*flat, TwoParameters()}) {
    BenchOptions options = Options(parameters, GetParam().group);
    // The norms are about 0.02 and 0.04.
    options.max_norm = GetParam().clip ? std::optional(0.01) : std::nullopt;
    ExpectSame(options);
  }
}

TEST_P(BenchCheckTest, MicroStepsAndGroupsOfMicroBatches) {
  BenchOptions options = Options(TwoParameters(), GetParam().group);
  options.max_norm = GetParam().clip ? std::optional(0.01) : std::nullopt;
  options.optimizer.micro_steps = 2;
  ExpectSame(options);
  options.optimizer.sum_group = 2;
  ExpectSame(options);
}

TEST(BenchCheckTest, EveryStepChangesWeights) {
  const BenchOptions options = Options(TwoParameters());
  const absl::StatusOr<Weights> before = ReferenceWeights(options, kRanks, kSteps);
  const absl::StatusOr<Weights> after = ReferenceWeights(options, kRanks, kSteps + 1);
  ASSERT_TRUE(before.ok() && after.ok());
  EXPECT_GT(CountWrong(*before, *after), 1000);
}

TEST(BenchCheckTest, AFlippedBitIsOneWrongWeight) {
  const absl::StatusOr<Weights> expected = ReferenceWeights(Options(TwoParameters()), kRanks, kSteps);
  ASSERT_TRUE(expected.ok()) << expected.status();
  Weights actual = *expected;
  EXPECT_EQ(CountWrong(*expected, actual), 0);
  actual[1][6].bits ^= 1;
  EXPECT_EQ(CountWrong(*expected, actual), 1);
  actual[0][2144].bits ^= 0x8000;
  EXPECT_EQ(CountWrong(*expected, actual), 2);
  actual[1].clear();
  EXPECT_EQ(CountWrong(*expected, actual), 8);
}

TEST(BenchCheckTest, HostsThatRoundTheirSumsHaveOtherBits) {
  BenchOptions options = Options(TwoParameters());
  const absl::StatusOr<Weights> exact = ReferenceWeights(options, /*ranks=*/4, kSteps);
  options.optimizer.host_sum = HostSum::kRounded;
  const auto differing = [&](int hosts) {
    const absl::StatusOr<Weights> rounded = ReferenceWeights(options, /*ranks=*/4, kSteps, hosts);
    return CountWrong(*exact, [&](int p) { return absl::MakeConstSpan((*rounded)[p]); });
  };
  EXPECT_EQ(differing(1), 0);
  EXPECT_GT(differing(2), 0);
  EXPECT_EQ(differing(4), 0);  // one gradient rounds to itself
}

TEST(BenchCheckTest, AModeThatTheReferenceDoesNotKnowIsNamed) {
  BenchOptions options = Options(TwoParameters());
  options.optimizer.accumulation = Accumulation::kLocal;
  const absl::Status local = ReferenceWeights(options, kRanks, kSteps).status();
  EXPECT_EQ(local.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(local.message()), testing::HasSubstr("accumulation: LOCAL"));
}

}  // namespace
}  // namespace shardstep
