#include "shardstep/tools/train/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>

namespace shardstep {
namespace {

using ::testing::HasSubstr;

constexpr ModelConfig kConfig{.layers = 2, .width = 32, .heads = 4, .context = 16};
constexpr uint64_t kSeed = 42;

std::vector<float> Initial(int p, int64_t begin, int64_t count, uint64_t seed = kSeed) {
  std::vector<float> values(count, std::nanf(""));
  FillInitial(kConfig, seed, p, begin, absl::MakeSpan(values));
  return values;
}

int Find(absl::string_view name) {
  const auto parameters = ModelParameters(kConfig);
  for (size_t p = 0; p < parameters.size(); ++p) {
    if (parameters[p].name == name) return static_cast<int>(p);
  }
  ADD_FAILURE() << name;
  return -1;
}

TEST(ModelConfigTest, ParametersAreNamedShapedAndGrouped) {
  const auto parameters = ModelParameters(kConfig);
  ASSERT_EQ(static_cast<int>(parameters.size()), ModelIndex::Count(kConfig));
  std::set<std::string> names;
  for (const ParameterSpec& parameter : parameters) {
    names.insert(parameter.name);
    EXPECT_EQ(parameter.weight_dtype, DType::kBf16);
    EXPECT_EQ(parameter.gradient_dtype, DType::kBf16);
    const bool matrix = parameter.shape.size() == 2 && parameter.name.find("embedding") == std::string::npos;
    EXPECT_EQ(parameter.group, matrix ? kDecayedGroup : kUndecayedGroup) << parameter.name;
  }
  EXPECT_EQ(names.size(), parameters.size());
  EXPECT_EQ(Find("embedding.token.weight"), ModelIndex::kTokenEmbedding);
  EXPECT_EQ(Find("embedding.position.weight"), ModelIndex::kPositionEmbedding);
  EXPECT_EQ(Find("block.1.attention.qkv.weight"), ModelIndex::Block(1, ModelIndex::kQkvWeight));
  EXPECT_EQ(Find("block.0.mlp.projection.bias"), ModelIndex::Block(0, ModelIndex::kMlpProjectionBias));
  EXPECT_EQ(Find("norm.bias"), ModelIndex::FinalNormBias(kConfig));
  EXPECT_EQ(Find("head.weight"), ModelIndex::Head(kConfig));
  EXPECT_EQ(parameters[Find("block.1.mlp.expand.weight")].shape, (std::vector<int64_t>{32, 128}));
  EXPECT_EQ(parameters[Find("embedding.position.weight")].shape, (std::vector<int64_t>{16, 32}));
}

TEST(ModelConfigTest, InitialRangesCompose) {
  for (int p = 0; p < ModelIndex::Count(kConfig); ++p) {
    const std::vector<float> whole = Initial(p, 0, 32);
    std::vector<float> parts = Initial(p, 0, 5);
    const std::vector<float> rest = Initial(p, 5, 27);
    parts.insert(parts.end(), rest.begin(), rest.end());
    EXPECT_EQ(parts, whole) << p;
  }
}

TEST(ModelConfigTest, InitialValuesHaveGpt2Scales) {
  const auto expect_normal = [](absl::string_view name, double deviation) {
    const std::vector<float> values = Initial(Find(name), 0, 100000);
    double sum = 0;
    double squares = 0;
    double fourth = 0;
    for (const double value : values) {
      sum += value;
      squares += value * value;
      fourth += value * value * value * value;
    }
    const double count = static_cast<double>(values.size());
    EXPECT_NEAR(sum / count, 0, 0.02 * deviation) << name;
    EXPECT_NEAR(std::sqrt(squares / count), deviation, 0.01 * deviation) << name;
    // 3 for a normal distribution, 2.85 for the sum of eight uniform numbers, 1.8 for one.
    EXPECT_NEAR(fourth / count / (squares / count * squares / count), 2.85, 0.1) << name;
  };
  for (const char* name : {"embedding.token.weight", "embedding.position.weight", "block.0.attention.qkv.weight",
                           "block.1.mlp.expand.weight", "head.weight"}) {
    expect_normal(name, 0.02);
  }
  expect_normal("block.1.attention.projection.weight", 0.01);
  expect_normal("block.0.mlp.projection.weight", 0.01);
  for (const char* name : {"block.0.attention.norm.weight", "block.1.mlp.norm.weight", "norm.weight"}) {
    EXPECT_THAT(Initial(Find(name), 0, 32), ::testing::Each(1.0f)) << name;
  }
  for (const char* name :
       {"block.0.attention.norm.bias", "block.0.attention.qkv.bias", "block.1.mlp.norm.bias",
        "block.1.attention.projection.bias", "block.0.mlp.expand.bias", "block.1.mlp.projection.bias", "norm.bias"}) {
    EXPECT_THAT(Initial(Find(name), 0, 32), ::testing::Each(0.0f)) << name;
  }
}

TEST(ModelConfigTest, SeedsAndParametersHaveValuesOfTheirOwn) {
  const int p = Find("block.0.attention.qkv.weight");
  EXPECT_NE(Initial(p, 0, 8), Initial(p, 0, 8, kSeed + 1));
  EXPECT_NE(Initial(p, 0, 8), Initial(Find("block.1.attention.qkv.weight"), 0, 8));
  EXPECT_NE(Initial(p, 0, 8), Initial(p, 1, 8));
}

// The same on every machine, so that runs can be compared; the numbers were computed by a separate script.
TEST(ModelConfigTest, InitialBitsAreFixed) {
  EXPECT_EQ(CounterRandom(1, 2, 3), 9613205829653846581u);
  EXPECT_THAT(Initial(Find("block.0.attention.qkv.weight"), 0, 3),
              ::testing::ElementsAre(-0x1.bcece2p-8f, 0x1.37ceccp-6f, 0x1.165dbcp-6f));
}

TEST(ModelConfigTest, RefusesBadFieldsByName) {
  const auto message = [](ModelConfig config) { return std::string(ValidateModelConfig(config).message()); };
  EXPECT_TRUE(ValidateModelConfig(kConfig).ok());
  EXPECT_THAT(message({.layers = 0}), HasSubstr("layers: 0"));
  EXPECT_THAT(message({.width = -1}), HasSubstr("width: -1"));
  EXPECT_THAT(message({.heads = 0}), HasSubstr("heads: 0"));
  EXPECT_THAT(message({.context = 0}), HasSubstr("context: 0"));
  EXPECT_THAT(message({.context = int64_t{1} << 40}), HasSubstr("context"));
  EXPECT_THAT(message({.width = 100, .heads = 3}), HasSubstr("width: 100 is not a multiple of heads, 3"));
}

}  // namespace
}  // namespace shardstep
