// Weights without a master, rounded at random by the kernels of every target.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "kernel_case.h"
#include "shardstep/comm/host_stream.h"
#include "shardstep/optimizer/shard_kernels.h"

namespace shardstep {
namespace {

constexpr UpdateKind kStochasticSgd = {
    .rule = Rule::kSgd, .master = Master::kNone, .rounding = Rounding::kStochastic, .momentum = false};

class StochasticRoundingTest : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Targets, StochasticRoundingTest, ::testing::ValuesIn(RunnableTargets()),
                         [](const auto& target) { return target.param; });

std::vector<Bf16> UpdatedWeights(const std::string& target, KernelCase work) {
  InlineStream stream;
  EXPECT_TRUE(KernelsOf(target, 2)->Update(work.Update(), stream).ok());
  return work.weights[0].bf16;
}

// What elements [begin, end) of the only parameter of `whole` are as a shard of their own.
KernelCase ShardOf(const KernelCase& whole, int64_t begin, int64_t end) {
  KernelCaseOptions options = whole.options;
  options.sizes = {end - begin};
  KernelCase shard(options);
  shard.segments[0].begin_element = begin;
  shard.segments[0].global_begin_element = whole.segments[0].global_begin_element + begin;
  for (size_t j = 0; j < shard.gradients.size(); ++j) {
    std::copy_n(whole.gradients[j].bf16.begin() + begin, end - begin, shard.gradients[j].bf16.begin());
  }
  std::copy_n(whole.weights[0].bf16.begin() + begin, end - begin, shard.weights[0].bf16.begin());
  shard.scalars = whole.scalars;
  shard.rules = whole.rules;
  return shard;
}

TEST_P(StochasticRoundingTest, DoesNotDependOnSharding) {
  // Global elements that are no multiples of anything.
  for (const int64_t global_begin : {0, 3, 1021, 77'777'777}) {
    const KernelCase whole({.sizes = {5000}, .kind = kStochasticSgd, .global_begin_element = global_begin});
    const std::vector<Bf16> expected = UpdatedWeights(GetParam(), whole);
    for (const int64_t cut : {1024, 3072, 4096}) {
      const std::vector<Bf16> low = UpdatedWeights(GetParam(), ShardOf(whole, 0, cut));
      const std::vector<Bf16> high = UpdatedWeights(GetParam(), ShardOf(whole, cut, 5000));
      EXPECT_TRUE(std::equal(expected.begin(), expected.begin() + cut, low.begin())) << cut;
      EXPECT_TRUE(std::equal(expected.begin() + cut, expected.begin() + 5000, high.begin())) << cut;
    }
  }
}

// All weights are `weight`, and the update takes `part` of the way to the bf16 below.
KernelCase PartOfTheWay(float weight, double part, int64_t elements) {
  KernelCase work({.sizes = {elements}, .slices = Slices(1), .kind = kStochasticSgd});
  const double spacing = weight - ToFloat(Bf16{static_cast<uint16_t>(ToBf16(weight).bits - 1)});
  for (Bf16& gradient : work.gradients[0].bf16) gradient = ToBf16(1.0f);
  for (Bf16& w : work.weights[0].bf16) w = ToBf16(weight);
  work.scalars.scale = 1;
  work.rules[0].sgd = {.learning_rate = static_cast<float>(part * spacing)};
  return work;
}

TEST_P(StochasticRoundingTest, IsRightOnAverage) {
  // 2^18 draws for each part; the bound is 5 standard deviations of as many independent ones.
  constexpr int64_t kElements = 1 << 16;
  constexpr int kSteps = 4;
  for (const double part : {1.0 / 64, 0.25, 0.5, 0.8}) {
    KernelCase work = PartOfTheWay(1.5f, part, kElements);
    int64_t moved = 0;
    for (int step = 1; step <= kSteps; ++step) {
      work.scalars.applied_step = step;
      for (const Bf16 weight : UpdatedWeights(GetParam(), work)) {
        ASSERT_TRUE(weight == ToBf16(1.5f) || weight.bits == ToBf16(1.5f).bits - 1);
        moved += weight == ToBf16(1.5f) ? 0 : 1;
      }
    }
    const double draws = static_cast<double>(kElements) * kSteps;
    EXPECT_LT(std::fabs(static_cast<double>(moved) / draws - part), 5 * std::sqrt(part * (1 - part) / draws)) << part;
  }
}

TEST_P(StochasticRoundingTest, SeedAndAppliedStepDecide) {
  KernelCase work = PartOfTheWay(1.5f, 0.5, 2048);
  const std::vector<Bf16> first = UpdatedWeights(GetParam(), work);
  EXPECT_EQ(UpdatedWeights(GetParam(), work), first) << "the same again";
  const auto differs_in = [&](const std::vector<Bf16>& other) {
    int differences = 0;
    for (int64_t i = 0; i < 2048; ++i) differences += first[i] == other[i] ? 0 : 1;
    return differences;
  };
  work.scalars.seed ^= uint64_t{1} << 63;
  EXPECT_NEAR(differs_in(UpdatedWeights(GetParam(), work)), 1024, 5 * std::sqrt(512));
  work.scalars.seed ^= uint64_t{1} << 63;
  work.scalars.applied_step += 1;
  EXPECT_NEAR(differs_in(UpdatedWeights(GetParam(), work)), 1024, 5 * std::sqrt(512));
}

}  // namespace
}  // namespace shardstep
