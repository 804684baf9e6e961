// Contribute and Decide of CUDA on the same words as the CPU's.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <vector>

#include "shardstep/comm/host_stream.h"
#include "shardstep/optimizer/decision_formula.h"
#include "tested_kernels.h"

namespace shardstep {
namespace {

// The words of one rank's step.
struct Words {
  StepOrder order;
  ScanResult scan;
  ScanResult exchange_scan;
  SmallReduction reduction;
  StepFacts facts;
  std::vector<RuleSettings> settings;
  UpdateScalars scalars;
  std::vector<RuleScalars> rules;
  StepReport report;

  explicit Words(int groups) {
    order.part.minima.fill(kNowhere);
    order.part.sums[SmallReduction::kArrivals] = 1;
    order.step = 7;
    order.learning_rate = 1e-3;
    order.divisor = 3;
    order.max_norm = 0.5;
    order.applied_steps = 41;
    order.rounding_seed = 0x0123456789abcdef;
    scan.squared_norm.Add(2.75);
    scan.max_abs_bits = FloatBits(1.5f);
    exchange_scan.squared_norm.Add(0x1.8p-280);
    exchange_scan.squared_norm.Add(0x1.8p200);
    exchange_scan.max_abs_bits = FloatBits(1.25f);
    for (int i = 0; i < groups; ++i) {
      const auto rule = static_cast<Rule>(i % 3);
      settings.push_back({.rule = rule, .begin_applied_step = i});
      settings.back().adamw.learning_rate_factor = 1 + i;
      settings.back().sgd.momentum = 0.1 * (i % 10);
      settings.back().lion.beta1 = 0.9 + 0.001 * i;
    }
    rules.resize(groups);
  }
  ContributeWords contribute() {
    return {.order = &order, .scan = &scan, .exchange_scan = &exchange_scan, .reduction = &reduction};
  }
  DecideWords decide(bool with_facts) {
    return {.order = &order,
            .reduction = &reduction,
            .facts = with_facts ? &facts : nullptr,
            .settings = settings.data(),
            .settings_count = static_cast<int32_t>(settings.size()),
            .scalars = &scalars,
            .rules = rules.data(),
            .report = &report};
  }
};

bool Same(const UpdateScalars& a, const UpdateScalars& b) {
  return a.apply == b.apply && FloatBits(a.scale) == FloatBits(b.scale) && a.seed == b.seed &&
         a.applied_step == b.applied_step;
}

bool SameScan(const ScanResult& a, const ScanResult& b) {
  return a.squared_norm.limbs() == b.squared_norm.limbs() && a.max_abs_bits == b.max_abs_bits &&
         a.first_nonfinite == b.first_nonfinite && a.first_overflow == b.first_overflow;
}

// Both kernels on the CPU and on CUDA, from equal words; CUDA's are returned.
std::unique_ptr<Words> RunBoth(const Words& start, bool with_facts = false) {
  Words expected = start;
  auto actual = std::make_unique<Words>(start);
  InlineStream host;
  const auto cpu = *CreateCpuShardKernels(1);
  EXPECT_TRUE(cpu->Contribute(expected.contribute(), host).ok());
  EXPECT_TRUE(cpu->Decide(expected.decide(with_facts), host).ok());
  HostCuda cuda;
  EXPECT_TRUE(cuda.kernels().Contribute(actual->contribute(), cuda.stream()).ok());
  EXPECT_TRUE(cuda.kernels().Decide(actual->decide(with_facts), cuda.stream()).ok());
  EXPECT_TRUE(cuda.stream().Synchronize(cuda.stream().Record()).ok());

  EXPECT_TRUE(SameScan(actual->scan, ScanResult())) << "scans begin anew";
  EXPECT_TRUE(SameScan(actual->exchange_scan, ScanResult()));
  EXPECT_EQ(actual->reduction, expected.reduction);
  EXPECT_TRUE(Same(actual->scalars, expected.scalars));
  EXPECT_EQ(actual->report.reduction, expected.report.reduction);
  EXPECT_TRUE(Same(actual->report.scalars, expected.report.scalars));
  EXPECT_EQ(actual->report.applied_in_step, expected.report.applied_in_step);
  // Floats only, without padding but for SgdScalars' last word, which has a bool in it.
  for (size_t i = 0; i < start.rules.size(); ++i) {
    const RuleScalars& a = actual->rules[i];
    const RuleScalars& b = expected.rules[i];
    EXPECT_EQ(std::memcmp(&a.adamw, &b.adamw, sizeof(a.adamw)), 0) << i;
    EXPECT_EQ(std::memcmp(&a.sgd, &b.sgd, 3 * sizeof(float)), 0) << i;
    EXPECT_EQ(a.sgd.nesterov, b.sgd.nesterov) << i;
    EXPECT_EQ(std::memcmp(&a.lion, &b.lion, sizeof(a.lion)), 0) << i;
  }
  return actual;
}

TEST(CudaDecideTest, AppliesAndClips) {
  for (const int groups : {0, 1, 3, 70}) {
    const auto words = RunBoth(Words(groups));
    EXPECT_TRUE(words->scalars.apply);
    EXPECT_LT(words->scalars.scale, 1e-20f) << "clipped";
    EXPECT_EQ(words->scalars.applied_step, 42);
    EXPECT_EQ(words->report.applied_in_step, 7);
  }
}

TEST(CudaDecideTest, ASkippedStepKeepsRuleScalars) {
  Words start(3);
  start.rules[1].adamw.beta1 = 0.123f;
  start.scan.first_nonfinite = MakePlace(3, 12345);
  const auto words = RunBoth(start);
  EXPECT_FALSE(words->scalars.apply);
  EXPECT_EQ(words->scalars.applied_step, 41);
  EXPECT_EQ(words->rules[1].adamw.beta1, 0.123f);
  EXPECT_EQ(words->report.applied_in_step, -1);
  EXPECT_EQ(words->report.reduction.minima[kFirstNonFinite], MakePlace(3, 12345));
}

TEST(CudaDecideTest, FactsOfOthersCountMoreThanTheReduction) {
  Words start(2);
  start.facts.refused = true;
  EXPECT_FALSE(RunBoth(start, /*with_facts=*/true)->scalars.apply);
  EXPECT_TRUE(RunBoth(start, /*with_facts=*/false)->scalars.apply);
  start.facts = {.max_abs_bits = FloatBits(2.0f)};
  start.facts.squared_norm.Add(16);
  start.order.max_norm = 0;
  const auto words = RunBoth(start, /*with_facts=*/true);
  EXPECT_TRUE(words->scalars.apply);
  EXPECT_EQ(words->scalars.scale, static_cast<float>(1.0 / 3));
}

TEST(CudaDecideTest, RefusesWhatIsNotWhole) {
  Words start(1);
  start.order.world_size = 2;
  EXPECT_FALSE(RunBoth(start)->scalars.apply);
}

TEST(CudaDecideTest, OverflowOfTheScaleIsSeen) {
  Words start(1);
  start.order.max_norm = 0;
  start.order.divisor = 1e-3;
  start.scan.max_abs_bits = FloatBits(3e38f);
  EXPECT_FALSE(RunBoth(start)->scalars.apply);
}

}  // namespace
}  // namespace shardstep
