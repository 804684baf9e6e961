#include "shardstep/runtime/decision.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace shardstep {
namespace {

using ::testing::HasSubstr;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

ShardLayout TwoParameters(int world_size) {
  return *ShardLayout::Create({{.name = "a", .shape = {2000}}, {.name = "b", .shape = {10}}},
                              {.bucket_bytes = 1 << 20, .world_size = world_size});
}

SmallReduction Reduce(const std::vector<SmallReduction>& parts) {
  SmallReduction all = parts[0];
  for (size_t r = 1; r < parts.size(); ++r) {
    for (int i = 0; i < SmallReduction::kSums; ++i) all.sums[i] += parts[r].sums[i];
    for (int i = 0; i < SmallReduction::kMinima; ++i) all.minima[i] = std::min(all.minima[i], parts[r].minima[i]);
  }
  return all;
}

DecisionInput Input(StepArguments arguments) {
  if (arguments.micro_batches == 0) arguments.micro_batches = 2;
  return {.arguments = arguments};
}

ScanResult Scan(double squared_norm, float max_abs = 1) {
  ScanResult scan;
  scan.squared_norm.Add(squared_norm);
  scan.max_abs_bits = FloatBits(max_abs);
  return scan;
}

// As a rank's streams make it.
SmallReduction Contribute(const DecisionInput& input, const ScanResult& scan, int rank) {
  const StepOrder order = MakeOrder(input, {}, rank, 1);
  ScanResult update_scan = scan;
  ScanResult exchange_scan;
  SmallReduction reduction;
  ContributeScans({.order = &order, .scan = &update_scan, .exchange_scan = &exchange_scan, .reduction = &reduction});
  return reduction;
}

// The host's decision, which must be what the streams decide by the same words.
Decision DecideBoth(const DecisionInput& input, const SmallReduction& reduction, const ShardLayout& layout,
                    const OptimizerOptions& options) {
  const StepOrder order = MakeOrder(input, options, 0, layout.world_size());
  UpdateScalars scalars;
  StepReport report;
  DecideStep({.order = &order, .reduction = &reduction, .scalars = &scalars, .report = &report});
  const Decision decision = Decide(input, Find(reduction, layout), options);
  EXPECT_EQ(report.reduction, reduction);
  EXPECT_EQ(scalars.apply, decision.apply);
  EXPECT_EQ(scalars.applied_step, decision.counters.applied_steps);
  if (decision.apply) {
    EXPECT_EQ(FloatBits(scalars.scale), FloatBits(decision.scale));
  }
  return decision;
}

Decision DecideAlone(const DecisionInput& input, const ScanResult& scan, const OptimizerOptions& options = {}) {
  return DecideBoth(input, Contribute(input, scan, 0), TwoParameters(1), options);
}

// C2: norm 0 and norm at the limit give finite scales; the formula is min(1, limit / (norm + 1e-6)).
TEST(Decision, C2ClipFactor) {
  const Decision zero = DecideAlone(Input({.learning_rate = 1, .max_norm = 1.0}), Scan(0, 0));
  EXPECT_TRUE(zero.apply);
  EXPECT_EQ(zero.record.gradient_norm, 0.0);
  EXPECT_EQ(zero.record.clip_factor, 1.0);
  EXPECT_EQ(zero.scale, 0.5f);
  // The sum's norm is 6, the mean's 3.
  const Decision at_limit = DecideAlone(Input({.learning_rate = 1, .max_norm = 3.0}), Scan(36));
  EXPECT_EQ(at_limit.record.gradient_norm, 3.0);
  EXPECT_EQ(at_limit.record.clip_factor, 3.0 / (3.0 + 1e-6));
  const Decision above = DecideAlone(Input({.learning_rate = 1, .max_norm = 1.0}), Scan(36));
  EXPECT_EQ(above.scale, static_cast<float>(1.0 / (3.0 + 1e-6) / 2));
}

// C2, X1: bad arguments are refused by name.
TEST(Decision, C2BadArgumentsAreNamed) {
  const OptimizerOptions options;
  const auto message = [&](const StepArguments& a) {
    return std::string(ValidateArguments(a, options, options.groups, 3, 4).message());
  };
  for (const double bad : {kNan, kInf, -1.0, 1e39, 1e38}) {
    EXPECT_THAT(message({.learning_rate = bad}), HasSubstr("learning_rate"));
  }
  for (const double bad : {kNan, kInf, -kInf, -1.0, 0.0}) {
    EXPECT_THAT(message({.learning_rate = 1, .max_norm = bad}), HasSubstr("max_norm"));
    EXPECT_THAT(message({.learning_rate = 1, .divisor = bad}), HasSubstr("divisor"));
  }
  EXPECT_THAT(message({.learning_rate = 1, .divisor = 1e-39}), HasSubstr("divisor"));
  EXPECT_THAT(message({.learning_rate = 1, .micro_batches = 13}), HasSubstr("micro_batches"));
  EXPECT_THAT(message({.learning_rate = 1, .micro_batches = -1}), HasSubstr("micro_batches"));
  EXPECT_EQ(message({.learning_rate = 0, .micro_batches = 12, .divisor = 7.5, .max_norm = 1e-30}), "");
  OptimizerOptions ignore;
  ignore.non_finite = NonFinitePolicy::kIgnore;
  EXPECT_THAT(
      std::string(ValidateArguments({.learning_rate = 1, .max_norm = 1.0}, ignore, ignore.groups, 1, 1).message()),
      HasSubstr("max_norm"));
}

TEST(Decision, DisagreementNamesBothRanksAndTheField) {
  const ShardLayout layout = TwoParameters(3);
  const auto decide = [&](const DecisionInput& other) {
    const DecisionInput input = Input({.learning_rate = 0.1, .micro_batches = 3});
    const SmallReduction all =
        Reduce({Contribute(input, Scan(1), 0), Contribute(input, Scan(1), 1), Contribute(other, Scan(1), 2)});
    return DecideBoth(input, all, layout, {});
  };
  const DecisionInput same = Input({.learning_rate = 0.1, .micro_batches = 3});
  EXPECT_TRUE(decide(same).refused.ok());
  DecisionInput other = same;
  other.arguments.learning_rate = std::nextafter(0.1, 1.0);
  const Decision decision = decide(other);
  EXPECT_FALSE(decision.apply);
  EXPECT_EQ(decision.counters.applied_steps, 0);
  EXPECT_EQ(decision.refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(decision.refused.message()), HasSubstr("learning_rate"));
  EXPECT_THAT(std::string(decision.refused.message()), HasSubstr("2"));
  other = same;
  other.arguments.max_norm = 1;
  EXPECT_THAT(std::string(decide(other).refused.message()), HasSubstr("max_norm"));
  other = same;
  other.arguments.divisor = 2;
  EXPECT_THAT(std::string(decide(other).refused.message()), HasSubstr("divisor"));
  other = same;
  other.counters.step = 1;
  EXPECT_THAT(std::string(decide(other).refused.message()), HasSubstr("Step calls"));
  other = same;
  other.misplaced_micro_step = 4;
  EXPECT_THAT(std::string(decide(other).refused.message()), HasSubstr("rank 2 marked gradients ready in micro-step 4"));
}

// A reduction that was cut off half-way decides nothing.
TEST(Decision, WordsOfTooFewRanksAreRefused) {
  const DecisionInput input = Input({.learning_rate = 0.1, .micro_batches = 3});
  const SmallReduction two = Reduce({Contribute(input, Scan(1), 0), Contribute(input, Scan(1), 1)});
  const Decision decision = DecideBoth(input, two, TwoParameters(3), {});
  EXPECT_FALSE(decision.apply);
  EXPECT_THAT(std::string(decision.refused.message()), HasSubstr("2 of 3 ranks"));
}

// C6: skips are counted, and an error after max_consecutive_skips of them; applied steps do not advance.
TEST(Decision, C6ConsecutiveSkips) {
  OptimizerOptions options;
  options.max_consecutive_skips = 3;
  ScanResult scan = Scan(1);
  scan.first_nonfinite = MakePlace(1, 2005);
  DecisionInput input = Input({.learning_rate = 1});
  for (int i = 1; i <= 3; ++i) {
    const Decision decision = DecideAlone(input, scan, options);
    EXPECT_FALSE(decision.apply);
    EXPECT_EQ(decision.counters.step, i);
    EXPECT_EQ(decision.counters.applied_steps, 0);
    EXPECT_EQ(decision.counters.consecutive_skips, i);
    EXPECT_EQ(decision.refused.ok(), i < 3);
    EXPECT_EQ(decision.record.non_finite->parameter, "b");
    EXPECT_EQ(decision.record.non_finite->element, 5);
    input.counters = decision.counters;
  }
  const Decision good = DecideAlone(input, Scan(1), options);
  EXPECT_TRUE(good.apply);
  EXPECT_EQ(good.counters.consecutive_skips, 0);
  EXPECT_EQ(good.counters.skipped_steps, 3);
  EXPECT_EQ(good.counters.applied_steps, 1);
}

TEST(Decision, ErrorPolicyRefusesAtOnce) {
  OptimizerOptions options;
  options.non_finite = NonFinitePolicy::kError;
  ScanResult scan = Scan(1);
  scan.first_nonfinite = MakePlace(0, 7);
  const Decision decision = DecideAlone(Input({.learning_rate = 1}), scan, options);
  EXPECT_EQ(decision.refused.code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(std::string(decision.refused.message()), HasSubstr("parameter \"a\", element 7"));
}

TEST(Decision, ScaleOverflowIsSkipped) {
  const Decision decision = DecideAlone(Input({.learning_rate = 1, .divisor = 1e-30}), Scan(1, 1e20f));
  EXPECT_FALSE(decision.apply);
  EXPECT_TRUE(decision.record.scale_overflow);
}

TEST(Decision, ANonFiniteSliceComesBeforeAnOverflow) {
  ScanResult scan = Scan(1);
  scan.first_nonfinite = MakePlace(5, 1);
  scan.first_overflow = MakePlace(2, 1);
  const Decision decision = DecideAlone(Input({.learning_rate = 1}), scan);
  EXPECT_EQ(decision.record.non_finite->micro_batch, 5);
  EXPECT_FALSE(decision.record.non_finite->sum_overflow);
}

}  // namespace
}  // namespace shardstep
