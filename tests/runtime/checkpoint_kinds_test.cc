#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "checkpoint_test_model.h"
#include "shardstep/proto/checkpoint.pb.h"
#include "shardstep/runtime/manifest.h"
#include "shardstep/runtime/manifest_features.h"
#include "shardstep/runtime/version.h"

namespace shardstep {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr UpdateKind kAdamW = {};
constexpr UpdateKind kSplitLion = {.rule = Rule::kLion, .master = Master::kSplit};
constexpr UpdateKind kPlainSgd = {.rule = Rule::kSgd, .master = Master::kNone, .momentum = false};
constexpr UpdateKind kMomentumSgd = {.rule = Rule::kSgd};

ParameterSpec SpecOf(std::string name, std::vector<int64_t> shape, int group, DType weight_dtype = DType::kBf16) {
  ParameterSpec spec = Spec(std::move(name), std::move(shape));
  spec.group = group;
  spec.weight_dtype = weight_dtype;
  return spec;
}

ParameterSpec Frozen(ParameterSpec spec) {
  spec.frozen = true;
  return spec;
}

ParameterSpec Tied(ParameterSpec spec, const std::string& to) {
  spec.tied_to = to;
  return spec;
}

// At most one of everything; parameters of a kind are not neighbours.
TestModel EveryKind() {
  TestModel model = {SpecOf("embed", {5, 1000}, 0),
                     Frozen(SpecOf("fixed", {3000}, 0)),
                     Frozen(SpecOf("ice", {1030}, 0, DType::kFp32)),
                     SpecOf("native", {2, 1100}, 0, DType::kFp32),
                     SpecOf("split", {7, 700}, 1),
                     Tied(SpecOf("head", {5, 1000}, 0), "embed"),
                     SpecOf("plain", {2050}, 2),
                     SpecOf("heavy", {33, 33}, 3)};
  model.groups = {kAdamW, kSplitLion, kPlainSgd, kMomentumSgd};
  model.begins = {{"split", 3}, {"heavy", 5}};
  model.sum_group = 4;
  return model;
}

class CheckpointKindsTest : public ::testing::Test {
 protected:
  void Save(const TestModel& model, int world_size = 2, int salt = 3, int64_t step = 9) {
    ExpectSaved(directory_.path(), {.model = model, .world_size = world_size, .salt = salt, .step = step});
  }

  // All ranks are alike; the last one's.
  LoadOutcome Load(const TestModel& model, const TestValues& expected = Salted(3), int world_size = 3) {
    const std::vector<LoadOutcome> outcomes =
        LoadOnAll(directory_.path(), TestLoad{.model = model, .world_size = world_size, .expected = expected});
    for (const LoadOutcome& outcome : outcomes) {
      EXPECT_EQ(outcome.status, outcomes.back().status);
      EXPECT_EQ(outcome.warnings, outcomes.back().warnings);
      EXPECT_TRUE(!outcome.status.ok() || outcome.equal == outcomes.back().equal);
    }
    return outcomes.back();
  }

  LoadOutcome ExpectLoads(const TestModel& model, const TestValues& expected = Salted(3)) {
    LoadOutcome outcome = Load(model, expected);
    EXPECT_TRUE(outcome.status.ok()) << outcome.status;
    EXPECT_TRUE(outcome.equal);
    EXPECT_EQ(outcome.info.digests, DigestsOf(model, expected));
    return outcome;
  }

  std::string ExpectRefused(const TestModel& model) {
    const LoadOutcome outcome = Load(model);
    EXPECT_EQ(outcome.status.code(), absl::StatusCode::kInvalidArgument) << outcome.status;
    return std::string(outcome.status.message());
  }

  proto::Checkpoint ManifestMessage(int64_t step = 9) const {
    proto::Checkpoint message;
    EXPECT_TRUE(message.ParseFromString(
        ReadBytes(directory_ / CheckpointName(step) + "/MANIFEST").substr(kManifestPreambleBytes)));
    return message;
  }

  static std::string CheckpointName(int64_t step) { return "step-00000000000" + std::to_string(step); }

  TemporaryDirectory directory_;
};

// K2, M6: every kind of parameter at once, any world size, ranks in another order of positions.
TEST_F(CheckpointKindsTest, K2M6EveryKindLoadsAtAnyWorldSize) {
  for (int saved = 1; saved <= 4; ++saved) {
    TestModel model = EveryKind();
    model.reversed_ranks = saved % 2 == 0;
    Save(model, saved);
    for (int loaded = 1; loaded <= 4; ++loaded) {
      for (const bool reversed : {false, true}) {
        model.reversed_ranks = reversed;
        const LoadOutcome outcome = Load(model, Salted(3), loaded);
        ASSERT_TRUE(outcome.status.ok()) << outcome.status;
        EXPECT_TRUE(outcome.equal) << saved << " to " << loaded;
        EXPECT_THAT(outcome.warnings, IsEmpty());
        EXPECT_EQ(outcome.info.digests, DigestsOf(model, Salted(3)));
        EXPECT_EQ(outcome.info.sum_group, 4);
        std::vector<int64_t> begins;
        for (const CheckpointParameterInfo& info : outcome.info.parameters) begins.push_back(info.begin_applied_step);
        EXPECT_THAT(begins, ElementsAre(0, 0, 0, 0, 3, 0, 0, 5));
      }
    }
  }
}

// M6: frozen, native and tied parameters keep their place, so that the numbers of those behind them do not shift.
TEST_F(CheckpointKindsTest, M6TableAndRanges) {
  Save(EveryKind());
  const proto::Checkpoint message = ManifestMessage();
  std::vector<std::string> table;
  for (const proto::CheckpointParameter& p : message.parameter()) {
    table.push_back(p.name() + " " + p.rule() + " " + p.master() + " " + p.weight_dtype() +
                    (p.frozen() ? " frozen" : "") + (p.tied_to().empty() ? "" : " = " + p.tied_to()) +
                    (p.momentum() ? " momentum" : "") +
                    (p.has_begin_applied_step() ? " from " + std::to_string(p.begin_applied_step()) : ""));
  }
  EXPECT_THAT(table,
              ElementsAre("embed adamw FP32 BF16", "fixed adamw NONE BF16 frozen", "ice adamw NONE F32 frozen",
                          "native adamw NONE F32", "split lion SPLIT BF16 from 3", "head adamw FP32 BF16 = embed",
                          "plain sgd NONE BF16", "heavy sgd FP32 BF16 momentum from 5"));
  std::vector<std::set<int>> kinds(8);
  for (const proto::CheckpointFile& file : message.file()) {
    for (const proto::CheckpointRange& range : file.range()) {
      kinds[static_cast<size_t>(range.parameter())].insert(range.kind());
    }
  }
  const std::set<int> all = {0, 1, 2};
  const std::set<int> master = {0};
  const std::set<int> one_moment = {0, 1};
  EXPECT_THAT(kinds, ElementsAre(all, master, master, all, one_moment, std::set<int>{}, master, one_moment));
  EXPECT_EQ(message.sum_group(), 4);
  const std::string shard = ReadBytes(directory_ / "step-000000000009/shard-0-of-2.safetensors");
  EXPECT_THAT(shard, Not(HasSubstr("head/master")));
  EXPECT_THAT(shard, HasSubstr("\"F32\""));
  EXPECT_THAT(shard, Not(HasSubstr("BF16")));
}

// Each feature takes its own flag, so that an older library refuses by name; none of them: version 1 as it was.
TEST_F(CheckpointKindsTest, FeatureFlagsAreThoseInUse) {
  const auto model_of = [](const ParameterSpec& spec, const UpdateKind& update) {
    TestModel model = {Spec("w", {1500}), spec};
    model.parameters[1].group = 1;
    model.groups = {kAdamW, update};
    return model;
  };
  TestModel late = {Spec("w", {9})};
  late.begins = {{"w", 1}};
  TestModel grouped = {Spec("w", {9})};
  grouped.sum_group = 2;
  const std::pair<TestModel, std::string> cases[] = {
      {model_of(Spec("x", {9}), kAdamW), "none"},
      {model_of(Spec("x", {9}), {.master = Master::kSplit}), "bit 0 (split_master)"},
      {model_of(Spec("x", {9}), {.rule = Rule::kLion}), "bit 1 (other_rules)"},
      {model_of(SpecOf("x", {9}, 0, DType::kFp32), kAdamW), "bit 2 (native_weights)"},
      {model_of(Spec("x", {9}), {.master = Master::kNone}), "bit 2 (native_weights)"},
      {model_of(Frozen(Spec("x", {9})), kAdamW), "bit 2 (native_weights), bit 3 (frozen)"},
      {TestModel{Spec("w", {1500}), Tied(Spec("x", {1500}), "w")}, "bit 4 (tied)"},
      {grouped, "bit 6 (sum_group)"},
      {late, "bit 7 (begin_applied_step)"}};
  for (const auto& [model, flags] : cases) {
    Save(model);
    uint64_t bits = 0;
    const std::string bytes = ReadBytes(directory_ / "step-000000000009/MANIFEST");
    std::memcpy(&bits, bytes.data() + 16, sizeof(bits));
    EXPECT_EQ(FeatureList(bits), flags);
    ExpectLoads(model);
  }
}

TEST_F(CheckpointKindsTest, MastersConvertBitByBit) {
  const auto with = [](Master master) {
    TestModel model = {Spec("w", {5, 1000}), Spec("x", {10})};
    model.groups[0].master = master;
    return model;
  };
  Save(with(Master::kFp32));
  EXPECT_THAT(ExpectLoads(with(Master::kSplit)).warnings, IsEmpty());
  // What the split one saves is what the fp32 one had: the same bytes, but for the manifest.
  const std::string shard = ReadBytes(directory_ / "step-000000000009/shard-1-of-2.safetensors");
  Save(with(Master::kSplit));
  EXPECT_EQ(ReadBytes(directory_ / "step-000000000009/shard-1-of-2.safetensors"), shard);
  EXPECT_THAT(ExpectLoads(with(Master::kFp32)).warnings, IsEmpty());
}

TEST_F(CheckpointKindsTest, WithoutMasterBecomesAnyMaster) {
  TestModel model = {Spec("w", {5, 1000}), Spec("x", {10})};
  model.groups[0].master = Master::kNone;
  Save(model);
  const TestValues rounded = [](int kind, int p, int64_t i) {
    const float value = ValueOf(3, kind, p, i);
    return kind == 0 ? ToFloat(ToBf16(value)) : value;
  };
  for (const Master master : {Master::kFp32, Master::kSplit, Master::kNone}) {
    model.groups[0].master = master;
    model.groups[0].rounding = Rounding::kStochastic;  // no part of the state
    EXPECT_THAT(ExpectLoads(model, rounded).warnings, IsEmpty());
  }
}

// K7: FP32 or SPLIT to NONE, narrowed dtypes, other rules, ties: all of them in one message, and nothing else.
TEST_F(CheckpointKindsTest, K7RefusalsListEveryName) {
  const UpdateKind split = {.master = Master::kSplit};
  TestModel saved = {
      SpecOf("a", {9}, 0), SpecOf("b", {9}, 1), SpecOf("c", {9}, 0, DType::kFp32), SpecOf("d", {9}, 2),
      SpecOf("e", {9}, 3), SpecOf("f", {9}, 0), Tied(SpecOf("g", {9}, 0), "f"),    SpecOf("same", {9}, 0)};
  saved.groups = {kAdamW, split, kPlainSgd, kMomentumSgd};
  Save(saved);
  TestModel now = {SpecOf("a", {9}, 4), SpecOf("b", {9}, 4), SpecOf("c", {9}, 0), SpecOf("d", {9}, 3),
                   SpecOf("e", {9}, 5), SpecOf("f", {9}, 0), SpecOf("g", {9}, 0), SpecOf("same", {9}, 0)};
  now.groups = {kAdamW, split, kPlainSgd, kMomentumSgd, {.master = Master::kNone}, {.rule = Rule::kLion}};
  const std::string message = ExpectRefused(now);
  for (const char* text :
       {"master of \"a\": FP32 in the checkpoint, none here", "master of \"b\": SPLIT in the checkpoint, none here",
        "retyped \"c\": F32 (gradient BF16) in the checkpoint, BF16 (gradient BF16) here",
        "other rule of \"d\": sgd without momentum in the checkpoint, sgd here",
        "other rule of \"e\": sgd in the checkpoint, lion here",
        "tied differently \"g\": tied to \"f\" in the checkpoint, by itself here"}) {
    EXPECT_THAT(message, HasSubstr(text));
  }
  EXPECT_THAT(message, Not(HasSubstr("\"f\":")));
  EXPECT_THAT(message, Not(HasSubstr("\"same\"")));
}

// M3: who is registered first owns; a checkpoint does not care, nor about the order of anything else.
TEST_F(CheckpointKindsTest, M3TiedAreSavedOnceAndLoadInAnyOrder) {
  TestModel model = {Spec("first", {1500}), Spec("embed", {3, 1000}), Tied(Spec("head", {3, 1000}), "embed"),
                     Tied(Spec("again", {3, 1000}), "head")};
  Save(model, 2);
  const proto::Checkpoint message = ManifestMessage();
  int64_t elements = 0;
  for (const proto::CheckpointFile& file : message.file()) {
    for (const proto::CheckpointRange& range : file.range()) elements += range.end_element() - range.begin_element();
  }
  EXPECT_EQ(elements, 3 * (1500 + 3000));
  ExpectLoads(model);
  const TestModel turned = {Spec("again", {3, 1000}), Spec("first", {1500}), Tied(Spec("embed", {3, 1000}), "again"),
                            Tied(Spec("head", {3, 1000}), "embed")};
  const TestValues by_name = [](int kind, int p, int64_t i) { return ValueOf(3, kind, p == 1 ? 0 : 1, i); };
  EXPECT_THAT(ExpectLoads(turned, by_name).warnings, IsEmpty());
}

TEST_F(CheckpointKindsTest, M3UntiedThereAndTiedHereIsRefused) {
  Save({Spec("a", {9}), Spec("b", {9})});
  EXPECT_THAT(ExpectRefused({Spec("a", {9}), Tied(Spec("b", {9}), "a")}),
              HasSubstr("tied differently \"b\": by itself in the checkpoint, tied to \"a\" here"));
}

// M2: its moments are left out, with a warning; of its master stays what is kept.
TEST_F(CheckpointKindsTest, M2FrozenHereNeedsNoMoments) {
  const TestModel saved = {Spec("w", {3, 1000}), Spec("x", {1030}), Spec("y", {1030})};
  Save(saved);
  TestModel registered = saved;
  registered.parameters[1].frozen = true;
  registered.parameters[2].frozen = true;
  EXPECT_THAT(ExpectLoads(registered).warnings,
              ElementsAre("frozen here and not in the checkpoint, so their moments are left out: \"x\", \"y\"",
                          "frozen here, so their master weights are rounded to bf16: \"x\", \"y\""));
  TestModel frozen_now = saved;
  frozen_now.frozen_now = {"x"};
  frozen_now.begins = {{"x", 2}};
  const LoadOutcome outcome = ExpectLoads(frozen_now);
  EXPECT_THAT(outcome.warnings,
              ElementsAre("frozen here and not in the checkpoint, so their moments are left out: \"x\"",
                          "frozen here, so their master weights are rounded to bf16: \"x\""));
  EXPECT_EQ(outcome.info.parameters[1].begin_applied_step, 0);
}

// M2: it begins as if it had been added now.
TEST_F(CheckpointKindsTest, M2ThawedHereBeginsWithZeroMoments) {
  const TestModel thawed = {Spec("w", {3, 1000}), Spec("x", {3, 1030})};
  TestModel registered = thawed;
  registered.parameters[1].frozen = true;
  TestModel frozen_now = thawed;
  frozen_now.frozen_now = {"x"};
  for (const TestModel& saved : {registered, frozen_now}) {
    Save(saved);
    const bool rounds = saved.parameters[1].frozen;
    const TestValues expected = [&](int kind, int p, int64_t i) {
      const float value = ValueOf(3, kind, p, i);
      if (p == 0) return value;
      if (kind != 0) return 0.0F;
      return rounds ? ToFloat(ToBf16(value)) : value;
    };
    const LoadOutcome outcome = ExpectLoads(thawed, expected);
    EXPECT_THAT(outcome.warnings,
                ElementsAre("frozen in the checkpoint and not here, so their moments begin at zero: \"x\""));
    EXPECT_EQ(outcome.info.applied_steps, 6);
    EXPECT_EQ(outcome.info.parameters[0].begin_applied_step, 0);
    EXPECT_EQ(outcome.info.parameters[1].begin_applied_step, 6);
    EXPECT_THAT(ExpectLoads(saved).warnings, IsEmpty());
  }
}

// Moments that are there before the load are overwritten, not kept.
TEST_F(CheckpointKindsTest, M2ZeroMomentsReplaceOldOnes) {
  TestModel model = {Spec("x", {1030})};
  model.frozen_now = {"x"};
  Save(model, 1);
  model.frozen_now.clear();
  RunRanks(1, [&](int rank, Rendezvous& rendezvous) {
    RankState state(model, 1, rank);
    state.Fill(Salted(7));
    const std::vector<CheckpointParameterInfo> parameters = model.Infos();
    const CheckpointTarget target = {.parameters = parameters};
    ASSERT_TRUE(LoadCheckpoint(directory_.path(), state.layout, state.access, target, rendezvous, {}, nullptr).ok());
    EXPECT_EQ(state.state.bucket(0).first_moment[5], 0.0F);
    EXPECT_EQ(state.state.bucket(0).second_moment[5], 0.0F);
    EXPECT_EQ(state.state.bucket(0).master[5], ValueOf(3, 0, 0, 5));
  });
}

// What is left out is verified all the same.
TEST_F(CheckpointKindsTest, DamageInMomentsThatAreLeftOutIsFound) {
  const TestModel saved = {Spec("w", {2, 1024})};
  Save(saved, 1);
  const std::string path = directory_ / "step-000000000009/shard-0-of-1.safetensors";
  std::string bytes = ReadBytes(path);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  WriteBytes(path, bytes);
  TestModel now = saved;
  now.parameters[0].frozen = true;
  const absl::Status status = Load(now).status;
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("hash differs"));
}

TEST_F(CheckpointKindsTest, AnotherSumGroupIsWarnedOf) {
  TestModel model = {Spec("w", {9})};
  for (const auto& [saved, now] : {std::pair<int64_t, int64_t>(4, 1), {1, 2}, {2, 4}}) {
    model.sum_group = saved;
    Save(model);
    model.sum_group = now;
    const LoadOutcome outcome = ExpectLoads(model);
    EXPECT_THAT(outcome.warnings, ElementsAre("sum_group is " + std::to_string(saved) + " in the checkpoint, " +
                                              std::to_string(now) + " here: the run goes on in other bits"));
    EXPECT_EQ(outcome.info.sum_group, saved);
  }
}

// A frozen or tied parameter has no state that could have begun.
TEST_F(CheckpointKindsTest, BeginOfWhatHasNoStateIsNotSaved) {
  TestModel model = {Spec("w", {9}), Tied(Spec("t", {9}), "w"), Frozen(Spec("x", {9}))};
  model.begins = {{"w", 2}, {"t", 2}, {"x", 2}};
  Save(model);
  EXPECT_TRUE(ManifestMessage().parameter(0).has_begin_applied_step());
  EXPECT_FALSE(ManifestMessage().parameter(1).has_begin_applied_step());
  EXPECT_FALSE(ManifestMessage().parameter(2).has_begin_applied_step());
  const LoadOutcome outcome = ExpectLoads(model);
  EXPECT_EQ(outcome.info.parameters[0].begin_applied_step, 2);
  EXPECT_EQ(outcome.info.parameters[1].begin_applied_step, 2);
  EXPECT_EQ(outcome.info.parameters[2].begin_applied_step, 0);
}

TEST_F(CheckpointKindsTest, BadArgumentsAreNamed) {
  const auto message_of = [&](const TestModel& model) {
    return std::string(SaveOnAll(directory_.path(), {.model = model, .step = 9})[0].message());
  };
  TestModel model = {Spec("w", {9})};
  model.begins = {{"w", 7}};
  EXPECT_THAT(message_of(model), AllOf(HasSubstr("\"w\""), HasSubstr("begin_applied_step = 7")));
  model.begins = {{"w", -1}};
  EXPECT_THAT(message_of(model), HasSubstr("begin_applied_step = -1"));
  model.begins.clear();
  model.sum_group = 0;
  EXPECT_THAT(message_of(model), HasSubstr("sum_group = 0"));
  EXPECT_THAT(Names(directory_.path()), IsEmpty());
}

// A state without the moments that a parameter is said to have is refused, by save and load, before it is touched.
TEST_F(CheckpointKindsTest, ParametersThatTheStateDoesNotKeepAreRefused) {
  const TestModel model = {Frozen(Spec("x", {9}))};
  Save(model, 1);
  RunRanks(1, [&](int rank, Rendezvous& rendezvous) {
    RankState state(model, 1, rank);
    CheckpointInfo info = InfoOf(model, 3, 10);
    const auto load = [&] {
      return LoadCheckpoint(directory_.path(), state.layout, state.access, {.parameters = info.parameters}, rendezvous,
                            {}, nullptr)
          .status();
    };
    const auto save = [&] {
      return SaveCheckpoint(directory_.path(), state.layout, state.access, info, rendezvous, {});
    };
    info.parameters[0].frozen = false;
    for (const absl::Status& status : {load(), save()}) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(status.message()), HasSubstr("parameter \"x\": bucket 0 does not keep the moments"));
    }
    info.parameters.clear();
    for (const absl::Status& status : {load(), save()}) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(status.message()), HasSubstr("parameters: 0, the layout has 1"));
    }
  });
}

TEST_F(CheckpointKindsTest, RanksThatDisagreeOnParametersSaveNothing) {
  RunRanks(2, [&](int rank, Rendezvous& rendezvous) {
    const TestModel model = {Spec("w", {3000})};
    RankState state(model, 2, rank);
    state.Fill(Salted(3));
    CheckpointInfo info = InfoOf(model, 3, 9);
    info.parameters[0].begin_applied_step = rank;
    const absl::Status status = SaveCheckpoint(directory_.path(), state.layout, state.access, info, rendezvous, {});
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("parameters of hash"), HasSubstr("rank 1")));
  });
  EXPECT_THAT(Names(directory_.path()), IsEmpty());
}

const std::string kGolden = std::string(SHARDSTEP_TESTDATA) + "/checkpoint_v1_every_kind";

// K8: every feature of version 1 at once loads for ever.
TEST(CheckpointGoldenTest, K8EveryKindLoads) {
  for (int world_size = 1; world_size <= 3; ++world_size) {
    for (const LoadOutcome& outcome : LoadOnAll(kGolden, world_size, 3, EveryKind())) {
      ASSERT_TRUE(outcome.status.ok()) << outcome.status;
      EXPECT_TRUE(outcome.equal);
      EXPECT_THAT(outcome.warnings, IsEmpty());
      EXPECT_EQ(outcome.info.step, 9);
      EXPECT_EQ(outcome.info.parameters[4].begin_applied_step, 3);
    }
  }
}

// A file of a checkpoint as this version of the library would have written it.
std::string WithThisVersion(const std::string& path) {
  const std::string bytes = ReadBytes(path);
  if (std::filesystem::path(path).filename() != "MANIFEST") return bytes;
  proto::Checkpoint message;
  EXPECT_TRUE(message.ParseFromString(bytes.substr(kManifestPreambleBytes)));
  message.set_library_version(kVersion);
  uint64_t flags = 0;
  std::memcpy(&flags, bytes.data() + 16, sizeof(flags));
  return SealManifest(message.SerializeAsString(), kCheckpointVersion, flags);
}

// K8: and the writer still writes both, byte by byte.
TEST(CheckpointGoldenTest, K8WriterMatches) {
  TemporaryDirectory directory;
  ExpectSaved(directory.path(), {.model = EveryKind(), .world_size = 2, .salt = 3, .step = 9});
  ExpectSaved(directory.path(),
              {.model = {Spec("w", {11, 100}), Spec("b", {7})}, .world_size = 2, .salt = 8, .step = 7});
  for (const std::string& golden :
       {kGolden + "/step-000000000009", std::string(SHARDSTEP_TESTDATA) + "/checkpoint_v1/step-000000000007"}) {
    const std::string written = directory / std::filesystem::path(golden).filename();
    EXPECT_THAT(Names(written), ElementsAre("MANIFEST", "shard-0-of-2.safetensors", "shard-1-of-2.safetensors"));
    for (const std::string& name : Names(written)) {
      EXPECT_EQ(ReadBytes(written + "/" + name), WithThisVersion(golden + "/" + name)) << golden << " " << name;
    }
  }
}

}  // namespace
}  // namespace shardstep
