#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "checkpoint_test_model.h"
#include "shardstep/proto/checkpoint.pb.h"
#include "shardstep/runtime/manifest.h"

namespace shardstep {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

const std::vector<ParameterSpec> kSmall = {Spec("w", {9})};
constexpr char kOld[] = "step-000000000001";
constexpr char kNew[] = "step-000000000002";

// An older checkpoint (salt 1) and a newer one (salt 2) that a test damages.
class CheckpointDamageTest : public ::testing::Test {
 protected:
  void SaveBoth(const TestModel& model, int world_size) {
    model_ = model;
    world_size_ = world_size;
    ExpectSaved(directory_.path(),
                {.model = model, .world_size = world_size, .salt = 1, .step = 1, .chunk_bytes = 128});
    ExpectSaved(directory_.path(),
                {.model = model, .world_size = world_size, .salt = 2, .step = 2, .chunk_bytes = 128});
  }
  std::string NewFile(const std::string& name) const { return directory_ / kNew + "/" + name; }

  // The older one is loaded on every rank, with one equal warning that has every text of `named`.
  void ExpectFallsBack(const std::vector<std::string>& named) {
    const std::vector<LoadOutcome> outcomes = LoadOnAll(directory_.path(), world_size_, 1, model_);
    for (const LoadOutcome& outcome : outcomes) {
      ASSERT_TRUE(outcome.status.ok()) << outcome.status;
      ASSERT_EQ(outcome.info.step, 1);
      ASSERT_TRUE(outcome.equal);
      ASSERT_THAT(outcome.warnings, SizeIs(1));
      ASSERT_EQ(outcome.warnings, outcomes[0].warnings);
      ASSERT_THAT(outcome.warnings[0], HasSubstr(kNew));
      for (const std::string& text : named) ASSERT_THAT(outcome.warnings[0], HasSubstr(text));
    }
  }

  absl::Status LoadStatus() { return LoadOnAll(directory_.path(), world_size_, 1, model_).back().status; }

  // Rewrites the newer one's manifest, with good hashes, and with `more_flags` besides those it has.
  void EditManifest(const std::function<void(proto::Checkpoint&)>& edit, uint64_t more_flags = 0) {
    const std::string bytes = ReadBytes(NewFile("MANIFEST"));
    uint64_t flags = 0;
    std::memcpy(&flags, bytes.data() + 16, sizeof(flags));
    proto::Checkpoint message;
    ASSERT_TRUE(message.ParseFromString(bytes.substr(kManifestPreambleBytes)));
    edit(message);
    WriteBytes(NewFile("MANIFEST"), SealManifest(message.SerializeAsString(), kCheckpointVersion, flags | more_flags));
  }

  // Rewrites a shard's bytes, and the manifest's hashes so that they agree.
  void EditShard(const std::function<void(std::string&)>& edit) {
    std::string bytes = ReadBytes(NewFile("shard-0-of-1.safetensors"));
    edit(bytes);
    WriteBytes(NewFile("shard-0-of-1.safetensors"), bytes);
    EditManifest([&](proto::Checkpoint& message) {
      proto::CheckpointFile& file = *message.mutable_file(0);
      file.clear_chunk_hash();
      for (size_t begin = 0; begin < bytes.size(); begin += 128) {
        file.add_chunk_hash(ChunkHash(absl::string_view(bytes).substr(begin, 128)));
      }
    });
  }

  TemporaryDirectory directory_;
  TestModel model_;
  int world_size_ = 1;
};

TEST_F(CheckpointDamageTest, D6EveryBitOfTheManifest) {
  SaveBoth(kSmall, 1);
  const std::string good = ReadBytes(NewFile("MANIFEST"));
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bytes = good;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ 1 << bit % 8);
    WriteBytes(NewFile("MANIFEST"), bytes);
    ASSERT_NO_FATAL_FAILURE(ExpectFallsBack({"MANIFEST"})) << "bit " << bit;
  }
}

TEST_F(CheckpointDamageTest, D6EveryBitOfAShard) {
  SaveBoth(kSmall, 1);
  const std::string good = ReadBytes(NewFile("shard-0-of-1.safetensors"));
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bytes = good;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ 1 << bit % 8);
    WriteBytes(NewFile("shard-0-of-1.safetensors"), bytes);
    ASSERT_NO_FATAL_FAILURE(
        ExpectFallsBack({"shard-0-of-1.safetensors", "chunk " + std::to_string(bit / 8 / 128) + " "}))
        << "bit " << bit;
  }
}

// Only one rank reads the damaged bytes, in every place; also a shard that holds nothing is looked at.
TEST_F(CheckpointDamageTest, D6OneRankSeesItAllRanksFallBack) {
  SaveBoth({Spec("w", {2050})}, 4);
  for (int shard = 0; shard < 4; ++shard) {
    const std::string name = "shard-" + std::to_string(shard) + "-of-4.safetensors";
    const std::string good = ReadBytes(NewFile(name));
    for (size_t at = 0; at < good.size(); at += 491) {
      std::string bytes = good;
      bytes[at] = static_cast<char>(bytes[at] ^ 4);
      WriteBytes(NewFile(name), bytes);
      world_size_ = 3;
      ASSERT_NO_FATAL_FAILURE(ExpectFallsBack({name, "chunk " + std::to_string(at / 128) + " "}));
    }
    WriteBytes(NewFile(name), good);
  }
}

TEST_F(CheckpointDamageTest, D7TruncatedExtendedMissing) {
  SaveBoth(kSmall, 2);
  for (const char* name : {"MANIFEST", "shard-0-of-2.safetensors", "shard-1-of-2.safetensors"}) {
    const std::string good = ReadBytes(NewFile(name));
    for (const std::string& bytes : {good.substr(0, good.size() - 1), good.substr(0, 20), std::string(), good + "x"}) {
      WriteBytes(NewFile(name), bytes);
      ASSERT_NO_FATAL_FAILURE(ExpectFallsBack({name}));
    }
    std::filesystem::remove(NewFile(name));
    ASSERT_NO_FATAL_FAILURE(ExpectFallsBack({name}));
    WriteBytes(NewFile(name), good);
  }
}

TEST_F(CheckpointDamageTest, D7SwappedBetweenRanks) {
  SaveBoth({Spec("w", {2048})}, 2);
  const std::string first = ReadBytes(NewFile("shard-0-of-2.safetensors"));
  WriteBytes(NewFile("shard-0-of-2.safetensors"), ReadBytes(NewFile("shard-1-of-2.safetensors")));
  WriteBytes(NewFile("shard-1-of-2.safetensors"), first);
  ExpectFallsBack({"shard-0-of-2.safetensors", "chunk 0"});
}

TEST_F(CheckpointDamageTest, D7ShardOfAnotherStep) {
  SaveBoth(kSmall, 1);
  WriteBytes(NewFile("shard-0-of-1.safetensors"), ReadBytes(directory_ / kOld + "/shard-0-of-1.safetensors"));
  ExpectFallsBack({"shard-0-of-1.safetensors", "chunk 0"});
}

// Even with hashes that agree, the shard itself says where it belongs.
TEST_F(CheckpointDamageTest, D7ShardOfAnotherStepWithAgreeingHashes) {
  SaveBoth(kSmall, 1);
  const std::string old = ReadBytes(directory_ / kOld + "/shard-0-of-1.safetensors");
  EditShard([&](std::string& bytes) { bytes = old; });
  ExpectFallsBack({"shard-0-of-1.safetensors", "another rank, step or job"});
}

TEST_F(CheckpointDamageTest, D7DirectoryOfAnotherStep) {
  SaveBoth(kSmall, 1);
  std::filesystem::remove_all(directory_ / kNew);
  std::filesystem::copy(directory_ / kOld, directory_ / kNew);
  ExpectFallsBack({"MANIFEST", "step 1"});
}

TEST_F(CheckpointDamageTest, DigestThatDiffersIsDamage) {
  SaveBoth(kSmall, 2);
  EditManifest([](proto::Checkpoint& m) { m.mutable_kind(1)->set_digest_high(m.kind(1).digest_high() ^ 1); });
  ExpectFallsBack({"digest of first_moment"});
}

// Not NotFound: a caller that then starts afresh would throw the run away.
TEST_F(CheckpointDamageTest, AllDamagedIsDataLossThatNamesTheNewest) {
  SaveBoth(kSmall, 2);
  WriteBytes(NewFile("MANIFEST"), "no manifest");
  std::filesystem::remove(directory_ / kOld + "/MANIFEST");
  for (const LoadOutcome& outcome : LoadOnAll(directory_.path(), 2, 1, kSmall)) {
    EXPECT_EQ(outcome.status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(outcome.status.message()),
                AllOf(HasSubstr("no whole checkpoint among 2, the newest is damaged"), HasSubstr(NewFile("MANIFEST")),
                      HasSubstr("shorter than its preamble"), Not(HasSubstr(kOld))));
    ASSERT_THAT(outcome.warnings, SizeIs(2));
    EXPECT_THAT(outcome.warnings[0], HasSubstr(kNew));
    EXPECT_THAT(outcome.warnings[1], HasSubstr(kOld));
  }
}

// Bytes that the device cannot give back are as lost as bytes that differ: the older one is tried. Every other refusal
// to read says nothing against the checkpoint.
TEST_F(CheckpointDamageTest, UnreadableBytesAreDamageOtherRefusalsAreNot) {
  class UnreadableFileSystem : public FileSystem {
   public:
    explicit UnreadableFileSystem(int error) : error_(error) {}
    ssize_t Read(int file, void* data, size_t size, off_t offset) override {
      if (std::exchange(sound_, true)) return FileSystem::Read(file, data, size, offset);
      errno = error_;
      return -1;
    }

   private:
    const int error_;
    bool sound_ = false;
  };
  SaveBoth(kSmall, 1);
  UnreadableFileSystem unreadable(EIO);
  const LoadOutcome older = LoadOnAll(directory_.path(), 1, 1, kSmall, {&unreadable})[0];
  ASSERT_TRUE(older.status.ok()) << older.status;
  EXPECT_TRUE(older.equal);
  EXPECT_THAT(older.warnings, ElementsAre(AllOf(HasSubstr(kNew), HasSubstr("Input/output error"))));
  for (const auto& [error, code] :
       {std::pair(ENODEV, absl::StatusCode::kUnknown), std::pair(ENOMEM, absl::StatusCode::kResourceExhausted)}) {
    UnreadableFileSystem refusing(error);
    const LoadOutcome refused = LoadOnAll(directory_.path(), 1, 1, kSmall, {&refusing})[0];
    EXPECT_EQ(refused.status.code(), code) << refused.status;
    EXPECT_THAT(refused.warnings, SizeIs(0));
  }
}

// X5: the file cut anywhere; and the message cut anywhere, field boundaries included, with length and hash that agree.
TEST_F(CheckpointDamageTest, X5ManifestCutAnywhere) {
  SaveBoth(kSmall, 1);
  const std::string good = ReadBytes(NewFile("MANIFEST"));
  for (size_t bytes = 0; bytes < good.size(); ++bytes) {
    WriteBytes(NewFile("MANIFEST"), good.substr(0, bytes));
    ASSERT_NO_FATAL_FAILURE(ExpectFallsBack({"MANIFEST"})) << bytes;
    if (bytes < kManifestPreambleBytes) continue;
    WriteBytes(NewFile("MANIFEST"),
               SealManifest(absl::string_view(good).substr(kManifestPreambleBytes, bytes - kManifestPreambleBytes)));
    ASSERT_NO_FATAL_FAILURE(ExpectFallsBack({"MANIFEST"})) << bytes;
  }
}

// X5: so do the fields of features, which may stand behind the last one that is always there.
TEST_F(CheckpointDamageTest, X5ManifestOfFeaturesCutAnywhere) {
  TestModel model = kSmall;
  model.begins = {{"w", 1}};
  model.sum_group = 4;
  SaveBoth(model, 1);
  const std::string good = ReadBytes(NewFile("MANIFEST"));
  uint64_t flags = 0;
  std::memcpy(&flags, good.data() + 16, sizeof(flags));
  for (size_t bytes = kManifestPreambleBytes; bytes < good.size(); ++bytes) {
    const std::string message = good.substr(kManifestPreambleBytes, bytes - kManifestPreambleBytes);
    WriteBytes(NewFile("MANIFEST"), SealManifest(message, kCheckpointVersion, flags));
    ASSERT_NO_FATAL_FAILURE(ExpectFallsBack({"MANIFEST"})) << bytes;
  }
}

// K8: not damage, so no silent step back to an older one.
TEST_F(CheckpointDamageTest, K8FutureVersionAndUnknownFeatureAreRefusedByName) {
  SaveBoth(kSmall, 2);
  const std::string message = ReadBytes(NewFile("MANIFEST")).substr(kManifestPreambleBytes);
  WriteBytes(NewFile("MANIFEST"), SealManifest(message, 2));
  EXPECT_EQ(LoadStatus().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(LoadStatus().message()), HasSubstr("version 2"));
  WriteBytes(NewFile("MANIFEST"), SealManifest(message, 1, 1U << 3 | 1U << 5 | uint64_t{1} << 40));
  EXPECT_EQ(LoadStatus().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(LoadStatus().message()), HasSubstr("does not know: bit 5 (reduced_state), bit 40"));
}

// K8: the hashes agree, so it is no damage either.
TEST_F(CheckpointDamageTest, K8UnknownRuleIsRefusedByName) {
  SaveBoth(kSmall, 1);
  EditManifest([](proto::Checkpoint& m) { m.mutable_parameter(0)->set_rule("newer"); }, 1U << 1);
  EXPECT_EQ(LoadStatus().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(LoadStatus().message()), HasSubstr("parameter \"w\": rule \"newer\""));
}

TEST_F(CheckpointDamageTest, K7RetypedIsNamed) {
  SaveBoth(kSmall, 1);
  EditManifest([](proto::Checkpoint& m) { m.mutable_parameter(0)->set_weight_dtype("F16"); });
  EXPECT_EQ(LoadStatus().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(LoadStatus().message()), HasSubstr("retyped \"w\": F16"));
}

struct HostileManifest {
  const char* name;
  std::function<void(proto::Checkpoint&)> edit;
  const char* named;
};

// X4: hashes agree, content is hostile. Refused before anything is allocated or read for it.
TEST_F(CheckpointDamageTest, X4HostileManifests) {
  constexpr int64_t kHuge = int64_t{1} << 60;
  const HostileManifest hostile[] = {
      {"elements", [](auto& m) { m.mutable_parameter(0)->set_shape(0, kHuge); }, "parameter \"w\""},
      {"product", [](auto& m) { m.mutable_parameter(0)->add_shape(kHuge); }, "parameter \"w\""},
      {"negative", [](auto& m) { m.mutable_parameter(0)->set_shape(0, -9); }, "parameter \"w\""},
      {"overlap", [](auto& m) { m.mutable_file(0)->mutable_range(1)->set_kind(0); }, "\"w\", kind \"master\": overlap"},
      {"gap",
       [](auto& m) {
         m.mutable_file(0)->mutable_range()->RemoveLast();
         m.mutable_file(0)->set_size_bytes(m.file(0).size_bytes() - 36);
       },
       "kind \"second_moment\": gap"},
      {"beyond", [](auto& m) { m.mutable_file(0)->mutable_range(0)->set_end_element(kHuge); }, "no run of blocks"},
      {"backwards", [](auto& m) { m.mutable_file(0)->mutable_range(0)->set_begin_element(9); }, "no run of blocks"},
      {"below", [](auto& m) { m.mutable_file(0)->mutable_range(0)->set_begin_element(-1024); }, "no run of blocks"},
      {"no parameter", [](auto& m) { m.mutable_file(0)->mutable_range(0)->set_parameter(1); }, "not in the tables"},
      {"no kind", [](auto& m) { m.mutable_file(0)->mutable_range(0)->set_kind(-1); }, "not in the tables"},
      {"size", [](auto& m) { m.mutable_file(0)->set_size_bytes(kHuge); }, "size_bytes"},
      {"data begin", [](auto& m) { m.mutable_file(0)->set_data_begin_bytes(kHuge); }, "data_begin_bytes"},
      {"data begin off",
       [](auto& m) {
         m.mutable_file(0)->set_data_begin_bytes(m.file(0).data_begin_bytes() + 4);
         m.mutable_file(0)->set_size_bytes(m.file(0).size_bytes() + 4);
       },
       "bytes, the manifest says"},
      {"hashes", [](auto& m) { m.mutable_file(0)->add_chunk_hash(1); }, "hashes for"},
      {"chunk zero", [](auto& m) { m.set_chunk_bytes(0); }, "chunk_bytes"},
      {"chunk huge", [](auto& m) { m.set_chunk_bytes(kHuge); }, "chunk_bytes"},
      {"path", [](auto& m) { m.mutable_file(0)->set_name("../shard-0-of-1.safetensors"); }, "../shard-0"},
      {"absolute path", [](auto& m) { m.mutable_file(0)->set_name("/etc/passwd"); }, "/etc/passwd"},
      {"no file", [](auto& m) { m.clear_file(); }, "file"},
      {"twice", [](auto& m) { *m.add_parameter() = m.parameter(0); }, "twice"},
      {"split", [](auto& m) { m.mutable_parameter(0)->set_master("SPLIT"); }, "feature flags"},
      {"tied", [](auto& m) { m.mutable_parameter(0)->set_tied_to("v"); }, "feature flags"},
      {"frozen", [](auto& m) { m.mutable_parameter(0)->set_frozen(true); }, "the message uses: bit 3 (frozen)"},
      {"sum group", [](auto& m) { m.set_sum_group(4); }, "feature flags: none, the message uses: bit 6 (sum_group)"},
      {"kind dtype", [](auto& m) { m.mutable_kind(0)->set_dtype("BF16"); }, "of dtype \"BF16\""},
      {"kind name", [](auto& m) { m.mutable_kind(0)->set_name("../x"); }, "kind \"../x\""},
      {"step", [](auto& m) { m.set_step(-1); }, "step"},
      {"counters", [](auto& m) { m.set_applied_steps(kHuge); }, "applied_steps"},
  };
  SaveBoth(kSmall, 1);
  const std::string good = ReadBytes(NewFile("MANIFEST"));
  for (const HostileManifest& one : hostile) {
    WriteBytes(NewFile("MANIFEST"), good);
    EditManifest(one.edit);
    ASSERT_NO_FATAL_FAILURE(ExpectFallsBack({one.named})) << one.name;
  }
}

// X4: the same for what features add, with the flags that it takes.
TEST_F(CheckpointDamageTest, X4HostileFeatures) {
  enum : uint64_t { kSplit = 1, kRules = 2, kNative = 4, kFrozen = 8, kTied = 16, kSumGroup = 64, kBegin = 128 };
  struct {
    const char* name;
    uint64_t flags;
    std::function<void(proto::Checkpoint&)> edit;
    const char* named;
  } const hostile[] = {
      {"flag alone", kSplit, [](auto&) {}, "feature flags: bit 0 (split_master)"},
      {"flag of a missing field", kSumGroup, [](auto&) {}, "the message uses: "},
      {"rule without flag", 0, [](auto& m) { m.mutable_parameter(2)->set_rule("lion"); }, "bit 1 (other_rules)"},
      {"begin without flag", 0, [](auto& m) { m.mutable_parameter(5)->set_begin_applied_step(1); }, "bit 7"},
      {"master", 0, [](auto& m) { m.mutable_parameter(5)->set_master("HALF"); }, "parameter \"v\": master \"HALF\""},
      {"native with a master", 0, [](auto& m) { m.mutable_parameter(5)->set_weight_dtype("F32"); }, "behind F32"},
      {"momentum there", 0, [](auto& m) { m.mutable_parameter(5)->set_momentum(true); }, "momentum: there"},
      {"momentum missing", kRules, [](auto& m) { m.mutable_parameter(5)->set_rule("sgd"); }, "momentum: missing"},
      {"moment too many", kRules, [](auto& m) { m.mutable_parameter(5)->set_rule("lion"); },
       "\"v\", kind \"second_moment\", which it does not have"},
      {"moments of a frozen one", kFrozen, [](auto& m) { m.mutable_parameter(5)->set_frozen(true); },
       "\"v\", kind \"first_moment\", which it does not have"},
      {"missing moments", 0, [](auto& m) { m.mutable_parameter(3)->set_frozen(false); },
       "parameter \"cold\", kind \"first_moment\": gap"},
      {"master of a tied one", 0, [](auto& m) { m.mutable_file(0)->mutable_range(0)->set_parameter(1); },
       "\"t\", kind \"master\", which it does not have"},
      {"untied", 0, [](auto& m) { m.mutable_parameter(4)->set_tied_to(""); }, "\"u\", kind \"master\": gap"},
      {"tied to itself", 0, [](auto& m) { m.mutable_parameter(1)->set_tied_to("t"); }, "no earlier parameter"},
      {"tied to a later one", 0, [](auto& m) { m.mutable_parameter(1)->set_tied_to("x"); }, "no earlier parameter"},
      {"tied to nothing", 0, [](auto& m) { m.mutable_parameter(1)->set_tied_to("../w"); }, "\"../w\" is no earlier"},
      {"tied to another shape", 0, [](auto& m) { m.mutable_parameter(1)->set_shape(0, 8); }, "differs from \"w\""},
      {"tied with another master", kSplit, [](auto& m) { m.mutable_parameter(1)->set_master("SPLIT"); },
       "differs from \"w\""},
      {"tied with another dtype", 0, [](auto& m) { m.mutable_parameter(1)->set_gradient_dtype("F32"); },
       "differs from \"w\""},
      {"tied and frozen", 0, [](auto& m) { m.mutable_parameter(1)->set_frozen(true); }, "differs from \"w\""},
      {"begin of a tied one", kBegin, [](auto& m) { m.mutable_parameter(1)->set_begin_applied_step(1); },
       "without a state of its own"},
      {"begin of a frozen one", kBegin, [](auto& m) { m.mutable_parameter(2)->set_begin_applied_step(1); },
       "without a state of its own"},
      {"begin zero", 0, [](auto& m) { m.mutable_parameter(5)->set_begin_applied_step(0); }, "below 1"},
      {"begin negative", kBegin, [](auto& m) { m.mutable_parameter(5)->set_begin_applied_step(-1); }, "below 1"},
      {"begin in the future", kBegin, [](auto& m) { m.mutable_parameter(5)->set_begin_applied_step(int64_t{1} << 60); },
       "beyond applied_steps"},
      {"sum group zero", kSumGroup, [](auto& m) { m.set_sum_group(0); }, "sum_group: below 2"},
      {"sum group one", kSumGroup, [](auto& m) { m.set_sum_group(1); }, "sum_group: below 2"},
      {"sum group negative", kSumGroup, [](auto& m) { m.set_sum_group(-4); }, "sum_group: below 2"},
      {"kinds too few", 0, [](auto& m) { m.mutable_kind()->RemoveLast(); }, "2 kinds"},
      {"kinds too many", 0, [](auto& m) { *m.add_kind() = m.kind(0); }, "4 kinds"},
      {"kinds in another order", 0, [](auto& m) { m.mutable_kind()->SwapElements(0, 1); }, "kind \"first_moment\""},
  };
  TestModel model = {Spec("w", {9}), Spec("t", {9}), Spec("x", {9}), Spec("cold", {9}), Spec("u", {9}), Spec("v", {9})};
  model.parameters[1].tied_to = "w";
  model.parameters[2].frozen = true;
  model.parameters[3].frozen = true;
  model.parameters[4].tied_to = "t";
  SaveBoth(model, 1);
  const std::string good = ReadBytes(NewFile("MANIFEST"));
  for (const auto& one : hostile) {
    WriteBytes(NewFile("MANIFEST"), good);
    EditManifest(one.edit, one.flags);
    ASSERT_NO_FATAL_FAILURE(ExpectFallsBack({one.named})) << one.name;
  }
}

// X3, in small: whatever single byte of the message changes, with hashes that agree, it is refused or sound.
TEST_F(CheckpointDamageTest, X3AnyOneByteOfTheMessageChanged) {
  TestModel model = {Spec("w", {9}), Spec("t", {9}), Spec("x", {9}), Spec("y", {9})};
  model.parameters[1].tied_to = "w";
  model.parameters[2].frozen = true;
  model.parameters[3].group = 1;
  model.groups.push_back({.rule = Rule::kSgd, .master = Master::kSplit});
  model.begins = {{"y", 1}};
  model.sum_group = 4;
  SaveBoth(model, 1);
  const std::string good = ReadBytes(NewFile("MANIFEST"));
  ASSERT_TRUE(DecodeManifest(good).ok());
  uint64_t flags = 0;
  std::memcpy(&flags, good.data() + 16, sizeof(flags));
  for (size_t at = kManifestPreambleBytes; at < good.size(); ++at) {
    for (const int change : {0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x7f, 0xff}) {
      std::string message = good.substr(kManifestPreambleBytes);
      message[at - kManifestPreambleBytes] = static_cast<char>(message[at - kManifestPreambleBytes] ^ change);
      const absl::StatusOr<Manifest> manifest = DecodeManifest(SealManifest(message, kCheckpointVersion, flags));
      if (!manifest.ok()) {
        ASSERT_THAT(manifest.status().code(), AnyOf(absl::StatusCode::kDataLoss, absl::StatusCode::kFailedPrecondition))
            << at << " " << manifest.status();
        continue;
      }
      for (const ManifestParameter& parameter : manifest->parameters) {
        ASSERT_LT(static_cast<size_t>(parameter.owner), manifest->parameters.size()) << at;
        ASSERT_FALSE(manifest->parameters[static_cast<size_t>(parameter.owner)].tied()) << at;
        ASSERT_LE(parameter.begin_applied_step, manifest->applied_steps) << at;
      }
    }
  }
}

// X4: tied parameters cost a few bytes each and no elements, however many there are and whatever they say.
TEST_F(CheckpointDamageTest, X4TiedParametersAddNoElements) {
  Manifest manifest;
  manifest.chunk_bytes = 64;
  manifest.digests.resize(3);
  manifest.parameters.push_back({.name = "w", .shape = {int64_t{1} << 40}, .weight_dtype = "BF16"});
  for (int i = 0; i < 1000; ++i) {
    ManifestParameter tied = manifest.parameters[0];
    tied.name = absl::StrCat("t", i);
    tied.tied_to = manifest.parameters.back().name;
    manifest.parameters.push_back(tied);
  }
  manifest.files.push_back({.size_bytes = 64, .data_begin_bytes = 64, .chunk_hashes = {0}});
  const absl::StatusOr<std::string> bytes = EncodeManifest(manifest);
  ASSERT_TRUE(bytes.ok());
  EXPECT_THAT(std::string(DecodeManifest(*bytes).status().message()),
              HasSubstr("parameter \"w\", kind \"master\": gap near element 0"));
}

void ReplaceOnce(std::string& bytes, const std::string& from, const std::string& to) {
  ASSERT_EQ(from.size(), to.size());
  const size_t at = bytes.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  bytes.replace(at, from.size(), to);
}

// X4: a shard whose header lies, with hashes that agree.
TEST_F(CheckpointDamageTest, X4HostileShardHeaders) {
  SaveBoth(kSmall, 1);
  const std::string shard = ReadBytes(NewFile("shard-0-of-1.safetensors"));
  const std::pair<std::string, std::string> edits[] = {{"[0,36]", "[0,40]"},
                                                       {"[36,72]", "[32,72]"},
                                                       {"[36,72]", "[40,72]"},
                                                       {"\"shape\":[9]", "\"shape\":[8]"},
                                                       {"\"F32\"", "\"I32\""},
                                                       {"w/master@0-9", "w/master@0-8"},
                                                       {"w/master@0-9", "v/master@0-9"}};
  for (const auto& [from, to] : edits) {
    EditShard([&](std::string& bytes) {
      bytes = shard;
      ReplaceOnce(bytes, from, to);
    });
    ASSERT_NO_FATAL_FAILURE(ExpectFallsBack({"shard-0-of-1.safetensors", "key \""})) << from << " " << to;
  }
  EditShard([&](std::string& bytes) {
    bytes = shard;
    bytes[7] = 0x7f;  // a header of 2^62 bytes
  });
  ExpectFallsBack({"shard-0-of-1.safetensors", "header of"});
}

TEST_F(CheckpointDamageTest, X4SymbolicLinksAreNotFollowed) {
  SaveBoth(kSmall, 1);
  for (const char* name : {"MANIFEST", "shard-0-of-1.safetensors"}) {
    std::filesystem::rename(NewFile(name), directory_ / "elsewhere");
    std::filesystem::create_symlink(directory_ / "elsewhere", NewFile(name));
    ASSERT_NO_FATAL_FAILURE(ExpectFallsBack({name}));
    std::filesystem::remove(NewFile(name));
    std::filesystem::create_directory(NewFile(name));
    ASSERT_NO_FATAL_FAILURE(ExpectFallsBack({name}));
    std::filesystem::remove(NewFile(name));
    std::filesystem::rename(directory_ / "elsewhere", NewFile(name));
  }
  std::filesystem::rename(directory_ / kNew, directory_ / "elsewhere");
  std::filesystem::create_directory_symlink(directory_ / "elsewhere", directory_ / kNew);
  ExpectFallsBack({});
}

}  // namespace
}  // namespace shardstep
