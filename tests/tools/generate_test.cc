#include "shardstep/tools/train/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

#include "shardstep/tests/tools/model_fixture.h"

namespace shardstep {
namespace {

using ::testing::HasSubstr;

constexpr ModelConfig kTiny{.layers = 1, .width = 16, .heads = 2, .context = 8};

class GenerateTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::string> Sample(absl::string_view prompt, const GenerateOptions& options) {
    return Generate(*model_, parameters_.hooks(), prompt, options);
  }
  std::unique_ptr<Model<Bf16>> model_ = MustCreate<Bf16>(kTiny, 1, MatmulRoute::kFp32);
  OwnedParameters<Bf16> parameters_ = TypicalParameters(kTiny);
};

TEST_F(GenerateTest, IsAFunctionOfPromptAndOptions) {
  const GenerateOptions options{.bytes = 30, .temperature = 1.0, .seed = 5};
  const auto text = Sample("To be", options);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->size(), 30u);
  EXPECT_EQ(*Sample("To be", options), *text);
  EXPECT_NE(*Sample("To be", {.bytes = 30, .temperature = 1.0, .seed = 6}), *text);
  EXPECT_NE(*Sample("Or not", options), *text);
  EXPECT_EQ(*Sample("To be", {.bytes = 10, .temperature = 1.0, .seed = 5}), text->substr(0, 10));
}

TEST_F(GenerateTest, SeesTheLastContextBytesAndNoOthers) {
  // Many draws, as one byte of the prompt moves the distribution only a little.
  const auto first_bytes = [this](absl::string_view prompt) {
    std::string bytes;
    for (uint64_t seed = 0; seed < 500; ++seed)
      bytes += *Sample(prompt, {.bytes = 1, .temperature = 1.0, .seed = seed});
    return bytes;
  };
  EXPECT_EQ(first_bytes("unseen 12345678"), first_bytes("12345678"));
  EXPECT_NE(first_bytes("12345678"), first_bytes("02345678"));
}

TEST_F(GenerateTest, RefusesBadOptionsByName) {
  EXPECT_THAT(Sample("", {}).status().message(), HasSubstr("prompt"));
  EXPECT_THAT(Sample("x", {.bytes = -1}).status().message(), HasSubstr("bytes: -1"));
  EXPECT_THAT(Sample("x", {.temperature = -0.5}).status().message(), HasSubstr("temperature: -0.5"));
  EXPECT_THAT(Sample("x", {.temperature = std::nan("")}).status().message(), HasSubstr("temperature"));
  EXPECT_THAT(Sample("x", {.temperature = std::numeric_limits<double>::infinity()}).status().message(),
              HasSubstr("temperature"));
}

TEST_F(GenerateTest, ReportsLogitsThatAreNotFinite) {
  parameters_.weights[ModelIndex::Head(kTiny)][3] = Bf16{kBf16CanonicalNan};
  EXPECT_EQ(Sample("x", {.bytes = 1}).status().code(), absl::StatusCode::kDataLoss);
}

TEST(SampleByteTest, FollowsTheDistribution) {
  const std::array<double, 4> logits = {std::log(1.0), std::log(2.0), std::log(4.0), std::log(1.0)};
  std::array<int, 4> counts{};
  constexpr int kDraws = 8000;
  for (int i = 0; i < kDraws; ++i) ++counts[SampleByte(logits, 1.0, (i + 0.5) / kDraws)];
  EXPECT_THAT(counts, ::testing::ElementsAre(1000, 2000, 4000, 1000));
}

TEST(SampleByteTest, TemperatureSharpens) {
  const std::array<double, 2> logits = {std::log(1.0), std::log(3.0)};
  // At temperature 1/2 the odds are 1 : 9.
  EXPECT_EQ(SampleByte(logits, 0.5, 0.0999), 0);
  EXPECT_EQ(SampleByte(logits, 0.5, 0.1001), 1);
  EXPECT_EQ(SampleByte(logits, 0, 0.0), 1);
}

}  // namespace
}  // namespace shardstep
