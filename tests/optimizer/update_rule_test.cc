#include "shardstep/optimizer/update_rule.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace shardstep {
namespace {

TEST(UpdateKindTest, SaysWhatIsKept) {
  const UpdateKind adamw;
  const UpdateKind sgd = {.rule = Rule::kSgd, .momentum = false};
  const UpdateKind momentum = {.rule = Rule::kSgd, .master = Master::kSplit};
  const UpdateKind lion = {.rule = Rule::kLion, .master = Master::kNone, .momentum = false};
  EXPECT_EQ(MomentBytes(adamw), 8);
  EXPECT_EQ(MomentBytes(sgd), 0);
  EXPECT_EQ(MomentBytes(momentum), 4);
  EXPECT_EQ(MomentBytes(lion), 4) << "momentum is a matter of SGD only";
  EXPECT_EQ(MasterBytes(adamw, DType::kBf16), 4);
  EXPECT_EQ(MasterBytes(momentum, DType::kBf16), 2);
  EXPECT_EQ(MasterBytes(lion, DType::kBf16), 0);
  for (const UpdateKind& kind : {adamw, momentum, lion}) EXPECT_EQ(MasterBytes(kind, DType::kFp32), 0);
}

TEST(GroupOptionsTest, KindFollowsTheRule) {
  EXPECT_EQ(GroupOptions{}.kind(), UpdateKind());
  EXPECT_EQ((GroupOptions{.rule = SgdOptions{}, .master = Master::kSplit}.kind()),
            (UpdateKind{.rule = Rule::kSgd, .master = Master::kSplit, .momentum = false}));
  EXPECT_EQ((GroupOptions{.rule = SgdOptions{.momentum = 0.1}}.kind()), (UpdateKind{.rule = Rule::kSgd}));
  EXPECT_EQ((GroupOptions{.rule = LionOptions{}, .master = Master::kNone, .rounding = Rounding::kStochastic}.kind()),
            (UpdateKind{.rule = Rule::kLion, .master = Master::kNone, .rounding = Rounding::kStochastic}));
  EXPECT_EQ((GroupOptions{.rule = LionOptions{.learning_rate_factor = 0.25}}.learning_rate_factor()), 0.25);
}

TEST(RuleScalarsTest, RoundEachDoubleOnce) {
  const RuleScalars sgd = MakeRuleScalars(
      {.rule = SgdOptions{.momentum = 0.87, .nesterov = true, .weight_decay = 0.07, .learning_rate_factor = 0.3}},
      0.011, 3);
  EXPECT_EQ(sgd.sgd.momentum, static_cast<float>(0.87));
  EXPECT_EQ(sgd.sgd.weight_decay, static_cast<float>(0.07));
  EXPECT_EQ(sgd.sgd.learning_rate, static_cast<float>(0.011 * 0.3));
  EXPECT_TRUE(sgd.sgd.nesterov);
  const RuleScalars lion = MakeRuleScalars(
      {.rule = LionOptions{.beta1 = 0.87, .beta2 = 0.9973, .weight_decay = 0.07, .learning_rate_factor = 0.3}}, 0.011,
      3);
  EXPECT_EQ(lion.lion.beta1, static_cast<float>(0.87));
  EXPECT_EQ(lion.lion.one_minus_beta1, static_cast<float>(1 - 0.87));
  EXPECT_EQ(lion.lion.beta2, static_cast<float>(0.9973));
  EXPECT_EQ(lion.lion.one_minus_beta2, static_cast<float>(1 - 0.9973));
  EXPECT_NE(lion.lion.one_minus_beta2, 1 - lion.lion.beta2) << "these options do not tell double from float";
  EXPECT_EQ(lion.lion.lr_weight_decay, static_cast<float>((0.011 * 0.3) * 0.07));
  EXPECT_EQ(lion.lion.learning_rate, static_cast<float>(0.011 * 0.3));
  const AdamWScalars adamw = MakeRuleScalars({}, 0.011, 3).adamw;
  EXPECT_EQ(adamw.step_size, MakeAdamWScalars({}, 0.011, 3).step_size);
}

TEST(RuleScalarsTest, FiniteOnlyWhenEveryOneIs) {
  const auto judge = [](Rule rule, auto member, auto fields) {
    RuleScalars scalars;
    EXPECT_TRUE(IsFinite(scalars, rule));
    for (const auto field : fields) {
      for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
        scalars.*member.*field = bad;
        for (const Rule other : {Rule::kAdamW, Rule::kSgd, Rule::kLion}) {
          EXPECT_EQ(IsFinite(scalars, other), other != rule) << "those of another rule do not matter";
        }
        scalars.*member.*field = 1;
      }
    }
  };
  judge(Rule::kAdamW, &RuleScalars::adamw,
        std::vector{&AdamWScalars::beta1, &AdamWScalars::one_minus_beta1, &AdamWScalars::beta2,
                    &AdamWScalars::one_minus_beta2, &AdamWScalars::lr_weight_decay, &AdamWScalars::step_size,
                    &AdamWScalars::rbc2, &AdamWScalars::epsilon});
  judge(Rule::kSgd, &RuleScalars::sgd,
        std::vector{&SgdScalars::momentum, &SgdScalars::weight_decay, &SgdScalars::learning_rate});
  judge(Rule::kLion, &RuleScalars::lion,
        std::vector{&LionScalars::beta1, &LionScalars::one_minus_beta1, &LionScalars::beta2,
                    &LionScalars::one_minus_beta2, &LionScalars::lr_weight_decay, &LionScalars::learning_rate});
}

TEST(NamesTest, AreTheWordsOfOptions) {
  EXPECT_EQ(Name(Rule::kAdamW), "adamw");
  EXPECT_EQ(Name(Rule::kSgd), "sgd");
  EXPECT_EQ(Name(Rule::kLion), "lion");
  EXPECT_EQ(Name(Master::kFp32), "FP32");
  EXPECT_EQ(Name(Master::kSplit), "SPLIT");
  EXPECT_EQ(Name(Master::kNone), "NONE");
  EXPECT_EQ(Name(Rounding::kNearest), "NEAREST");
  EXPECT_EQ(Name(Rounding::kStochastic), "STOCHASTIC");
}

}  // namespace
}  // namespace shardstep
