#include "shardstep/runtime/state_access.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "checkpoint_test_weights.h"
#include "shardstep/comm/bf16.h"

namespace shardstep {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Eq;

// A tie between two bf16 values whose even neighbour is the lower one: nearest even and ties away from zero differ.
constexpr uint32_t kTie = 0x3f808000;
constexpr uint32_t kLowerOfTie = 0x3f80;
constexpr uint32_t kUpperOfTie = 0x3f81;

// One parameter of one kind over two shards, of which this is rank 0's at position 1; two copies of the weights.
class StateAccessTest : public ::testing::Test {
 protected:
  void Make(const UpdateKind& update, DType weight_dtype = DType::kBf16, bool frozen = false) {
    ParameterSpec spec;
    spec.name = "w";
    spec.shape = {4096};
    spec.weight_dtype = weight_dtype;
    spec.frozen = frozen;
    LayoutOptions options;
    options.world_size = 2;
    options.groups = {update};
    options.ranks_by_position = {1, 0};
    layout_.emplace(*ShardLayout::Create({spec}, options));
    state_ = *ShardState::Create(*layout_, {});
    weights_.emplace(*layout_, 0, 2);
    access_.emplace(&*layout_, &state_, &*weights_);
    ASSERT_EQ(layout_->bucket_count(), 1);
    ASSERT_EQ(layout_->shard_elements(0), 2048);
  }

  std::vector<float> Read(StateKind kind, int64_t begin, size_t count) {
    std::vector<float> values(count);
    access_->Read(kind, 0, begin, absl::MakeSpan(values));
    return values;
  }

  // Element `i` of this rank's shard in one copy.
  template <typename T>
  T WeightAt(int copy, int64_t i) {
    return static_cast<const T*>(weights_->Destinations(0)[static_cast<size_t>(copy)])[i];
  }

  std::optional<ShardLayout> layout_;
  ShardState state_;
  std::optional<TestWeights> weights_;
  std::optional<StateAccess> access_;
};

TEST_F(StateAccessTest, Fp32MasterKeepsBitsAndWeightsAreNearestEven) {
  Make({.master = Master::kFp32});
  const std::vector<float> values = {FloatFromBits(kTie), FloatFromBits(0x3f818000), -0.0F, FloatFromBits(0x7fc12345)};
  access_->Write(StateKind::kMaster, 0, 1500, values);
  EXPECT_FALSE(access_->RoundsMaster(0));
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(FloatBits(Read(StateKind::kMaster, 1500, 4)[i]), FloatBits(values[i]));
    EXPECT_EQ(FloatBits(state_.bucket(0).master[1500 + i]), FloatBits(values[i]));
  }
  for (const int copy : {0, 1}) {
    EXPECT_EQ(WeightAt<Bf16>(copy, 1500).bits, kLowerOfTie);
    EXPECT_EQ(WeightAt<Bf16>(copy, 1501).bits, 0x3f82);
    EXPECT_EQ(WeightAt<Bf16>(copy, 1502).bits, 0x8000);
    EXPECT_EQ(WeightAt<Bf16>(copy, 1503).bits, kBf16CanonicalNan);
    EXPECT_EQ(WeightAt<Bf16>(copy, 1499).bits, 0);
    EXPECT_EQ(WeightAt<Bf16>(copy, 1504).bits, 0);
  }
}

TEST_F(StateAccessTest, SplitMasterIsJoinedAndWeightsAreItsUpperHalf) {
  Make({.master = Master::kSplit});
  const std::vector<float> values = {FloatFromBits(kTie), FloatFromBits(0xbf80ffff), 1e-42F, FloatFromBits(0xff812345)};
  access_->Write(StateKind::kMaster, 0, 7, values);
  EXPECT_FALSE(access_->RoundsMaster(0));
  const std::vector<float> read = Read(StateKind::kMaster, 7, 4);
  for (const size_t i : {0, 1, 2}) EXPECT_EQ(FloatBits(read[i]), FloatBits(values[i])) << i;
  EXPECT_EQ(FloatBits(read[3]), 0x7fc00000U);
  EXPECT_EQ(state_.bucket(0).master, nullptr);
  for (const int copy : {0, 1}) EXPECT_EQ(WeightAt<Bf16>(copy, 7).bits, kUpperOfTie);
}

TEST_F(StateAccessTest, WithoutMasterWeightsAreReadAndRoundedToNearestEven) {
  Make({.master = Master::kNone, .rounding = Rounding::kStochastic});
  access_->Write(StateKind::kMaster, 0, 2046, {FloatFromBits(kTie), 0.5F});
  EXPECT_TRUE(access_->RoundsMaster(0));
  EXPECT_THAT(Read(StateKind::kMaster, 2046, 2), ElementsAre(FloatFromBits(kLowerOfTie << 16), 0.5F));
  for (const int copy : {0, 1}) EXPECT_EQ(WeightAt<Bf16>(copy, 2046).bits, kLowerOfTie);
}

TEST_F(StateAccessTest, Fp32WeightsAreTheirOwnMaster) {
  Make({.master = Master::kFp32}, DType::kFp32);
  access_->Write(StateKind::kMaster, 0, 3, {FloatFromBits(kTie), 1e-42F});
  EXPECT_FALSE(access_->RoundsMaster(0));
  EXPECT_THAT(Read(StateKind::kMaster, 3, 2), ElementsAre(FloatFromBits(kTie), 1e-42F));
  for (const int copy : {0, 1}) EXPECT_EQ(FloatBits(WeightAt<float>(copy, 3)), kTie);
}

TEST_F(StateAccessTest, FrozenHasWeightsOnly) {
  Make({.master = Master::kSplit}, DType::kBf16, true);
  EXPECT_TRUE(access_->Has(StateKind::kMaster, 0));
  EXPECT_FALSE(access_->Has(StateKind::kFirstMoment, 0));
  EXPECT_FALSE(access_->Has(StateKind::kSecondMoment, 0));
  EXPECT_TRUE(access_->RoundsMaster(0));
  access_->Write(StateKind::kMaster, 0, 0, {FloatFromBits(kTie)});
  EXPECT_THAT(Read(StateKind::kMaster, 0, 1), ElementsAre(FloatFromBits(kLowerOfTie << 16)));
}

// The same object sees what is kept now.
TEST_F(StateAccessTest, FollowsFreezingAndThawing) {
  Make({.master = Master::kFp32});
  access_->Write(StateKind::kMaster, 0, 0, {FloatFromBits(kTie)});
  state_.Freeze(0);
  EXPECT_FALSE(access_->Has(StateKind::kFirstMoment, 0));
  EXPECT_TRUE(access_->RoundsMaster(0));
  EXPECT_THAT(Read(StateKind::kMaster, 0, 1), ElementsAre(FloatFromBits(kLowerOfTie << 16)));
  ASSERT_TRUE(state_.Thaw(*layout_, 0).ok());
  EXPECT_TRUE(access_->Has(StateKind::kFirstMoment, 0));
  EXPECT_FALSE(access_->RoundsMaster(0));
}

TEST_F(StateAccessTest, MomentsFollowTheRule) {
  struct {
    UpdateKind update;
    bool first, second;
  } const cases[] = {{{.rule = Rule::kAdamW}, true, true},
                     {{.rule = Rule::kLion}, true, false},
                     {{.rule = Rule::kSgd, .momentum = true}, true, false},
                     {{.rule = Rule::kSgd, .momentum = false}, false, false}};
  for (const auto& one : cases) {
    Make(one.update);
    EXPECT_EQ(access_->Has(StateKind::kFirstMoment, 0), one.first) << Name(one.update.rule);
    EXPECT_EQ(access_->Has(StateKind::kSecondMoment, 0), one.second) << Name(one.update.rule);
  }
}

TEST_F(StateAccessTest, MomentsAreSeparateAndTouchNoWeights) {
  Make({.rule = Rule::kAdamW});
  access_->Write(StateKind::kFirstMoment, 0, 2047, {1.25F});
  access_->Write(StateKind::kSecondMoment, 0, 2047, {2.5F});
  EXPECT_THAT(Read(StateKind::kFirstMoment, 2046, 2), ElementsAre(0.0F, 1.25F));
  EXPECT_THAT(Read(StateKind::kSecondMoment, 2046, 2), ElementsAre(0.0F, 2.5F));
  EXPECT_EQ(state_.bucket(0).first_moment[2047], 1.25F);
  for (const std::vector<std::byte>& copy : weights_->copies()) EXPECT_THAT(copy, Each(Eq(std::byte{0})));
}

TEST(StateKindTest, Names) {
  EXPECT_EQ(Name(StateKind::kMaster), "master");
  EXPECT_EQ(Name(StateKind::kFirstMoment), "first_moment");
  EXPECT_EQ(Name(StateKind::kSecondMoment), "second_moment");
}

}  // namespace
}  // namespace shardstep
