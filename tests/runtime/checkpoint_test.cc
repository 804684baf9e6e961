#include "shardstep/runtime/checkpoint.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <map>

#include "checkpoint_test_model.h"

namespace shardstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

// K2: save at N, load at N', byte-equal state, padding still zero.
TEST(CheckpointTest, K2LoadsAtAnyWorldSize) {
  for (int saved = 1; saved <= 4; ++saved) {
    TemporaryDirectory directory;
    ExpectSaved(directory.path(), {.world_size = saved, .salt = 5, .step = 12});
    for (int loaded = 1; loaded <= 4; ++loaded) {
      for (const LoadOutcome& outcome : LoadOnAll(directory.path(), loaded, 5)) {
        ASSERT_TRUE(outcome.status.ok()) << outcome.status;
        EXPECT_TRUE(outcome.equal) << saved << " to " << loaded;
        EXPECT_THAT(outcome.warnings, IsEmpty());
        const CheckpointInfo expected = InfoOf(MixedParameters(), 5, 12);
        EXPECT_EQ(outcome.info.step, 12);
        EXPECT_EQ(outcome.info.applied_steps, expected.applied_steps);
        EXPECT_EQ(outcome.info.skipped_steps, expected.skipped_steps);
        EXPECT_EQ(outcome.info.consecutive_skips, expected.consecutive_skips);
        EXPECT_EQ(outcome.info.options, expected.options);
        EXPECT_EQ(outcome.info.caller_state, expected.caller_state);
        EXPECT_EQ(outcome.info.digests, expected.digests);
      }
    }
  }
}

TEST(CheckpointTest, LoadsParametersInAnotherOrder) {
  TemporaryDirectory directory;
  std::vector<ParameterSpec> parameters = {Spec("a", {2, 3000}), Spec("b", {5})};
  ExpectSaved(directory.path(), {.model = parameters, .world_size = 2});
  std::swap(parameters[0], parameters[1]);
  for (const LoadOutcome& outcome : LoadOnAll(directory.path(), 3, 1, parameters)) {
    EXPECT_TRUE(outcome.status.ok()) << outcome.status;
  }
}

// K7
TEST(CheckpointTest, K7MismatchListsEveryName) {
  TemporaryDirectory directory;
  ExpectSaved(directory.path(),
              {.model = {Spec("same", {3}), Spec("gone", {3}), Spec("flat", {4, 6})}, .world_size = 2});
  for (const LoadOutcome& outcome :
       LoadOnAll(directory.path(), 2, 1, {Spec("same", {3}), Spec("flat", {24}), Spec("new", {1})})) {
    EXPECT_EQ(outcome.status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(outcome.status.message()), HasSubstr("unknown \"gone\""));
    EXPECT_THAT(std::string(outcome.status.message()), HasSubstr("missing \"new\""));
    EXPECT_THAT(std::string(outcome.status.message()), HasSubstr("reshaped \"flat\": [4,6] in the checkpoint, [24]"));
    EXPECT_THAT(std::string(outcome.status.message()), Not(HasSubstr("\"same\"")));
  }
}

TEST(CheckpointTest, NothingToLoadIsNotFound) {
  TemporaryDirectory directory;
  EXPECT_EQ(LoadOnAll(directory.path(), 2, 1)[1].status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(LoadOnAll(directory / "absent", 2, 1)[1].status.code(), absl::StatusCode::kNotFound);
}

TEST(CheckpointTest, RanksThatDisagreeSaveNothing) {
  TemporaryDirectory directory;
  RunRanks(2, [&](int rank, Rendezvous& rendezvous) {
    RankState state(MixedParameters(), 2, rank);
    const absl::Status status = SaveCheckpoint(directory.path(), state.layout, state.access,
                                               InfoOf(MixedParameters(), 1, 7 + rank), rendezvous, {});
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr("step 7"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1"));
  });
  EXPECT_THAT(Names(directory.path()), IsEmpty());
}

TEST(CheckpointTest, WrongDigestIsRefusedBeforeAnythingIsReplaced) {
  TemporaryDirectory directory;
  RunRanks(2, [&](int rank, Rendezvous& rendezvous) {
    RankState state(MixedParameters(), 2, rank);
    state.Fill(Salted(1));
    const absl::Status status =
        SaveCheckpoint(directory.path(), state.layout, state.access, InfoOf(MixedParameters(), 2, 7), rendezvous, {});
    EXPECT_THAT(std::string(status.message()), HasSubstr("digest of master"));
  });
  EXPECT_THAT(Names(directory.path()), IsEmpty());
}

TEST(CheckpointTest, BadArgumentsAreNamed) {
  TemporaryDirectory directory;
  EXPECT_THAT(std::string(SaveOnAll(directory.path(), {.step = -1})[0].message()), HasSubstr("step"));
  EXPECT_THAT(std::string(SaveOnAll(directory.path(), {.step = 1000000000000})[0].message()), HasSubstr("step"));
  EXPECT_THAT(std::string(SaveOnAll(directory.path(), {.keep = 0})[0].message()), HasSubstr("keep"));
  EXPECT_THAT(std::string(SaveOnAll(directory.path(), {.chunk_bytes = 100})[0].message()), HasSubstr("chunk_bytes"));
  EXPECT_THAT(std::string(SaveOnAll(directory.path(), {.model = {Spec("\xff", {1})}})[0].message()),
              HasSubstr("UTF-8"));
  EXPECT_THAT(Names(directory.path()), IsEmpty());
}

// K9
TEST(CheckpointTest, K9KeepsTheNewest) {
  TemporaryDirectory directory;
  for (int64_t step = 10; step <= 50; step += 10) ExpectSaved(directory.path(), {.step = step, .keep = 2});
  EXPECT_THAT(Names(directory.path()), ElementsAre("step-000000000040", "step-000000000050"));
}

// K9: a damaged one does not count, and one that was loaded past does not push out what was saved after it.
TEST(CheckpointTest, K9CountsWholeOnesOnly) {
  TemporaryDirectory directory;
  for (int64_t step = 10; step <= 30; step += 10) ExpectSaved(directory.path(), {.step = step, .keep = 9});
  std::filesystem::remove(directory / "step-000000000020/MANIFEST");
  ExpectSaved(directory.path(), {.salt = 2, .step = 25, .keep = 1});
  EXPECT_THAT(Names(directory.path()), ElementsAre("step-000000000025", "step-000000000030"));
  ExpectSaved(directory.path(), {.salt = 3, .step = 40, .keep = 2});
  EXPECT_THAT(Names(directory.path()), ElementsAre("step-000000000030", "step-000000000040"));
}

TEST(CheckpointTest, LeftoversOfCrashesAreRemovedAndNothingElse) {
  TemporaryDirectory directory;
  for (const char* name : {".saving-step-000000000005", ".removing-step-000000000002", "notes"}) {
    std::filesystem::create_directory(directory / name);
    WriteBytes(directory / name + "/shard-0-of-1.safetensors", "half");
  }
  ExpectSaved(directory.path(), {.step = 5});
  EXPECT_THAT(Names(directory.path()), ElementsAre("notes", "step-000000000005"));
}

TEST(CheckpointTest, SavesTheSameStepAgain) {
  TemporaryDirectory directory;
  ExpectSaved(directory.path(), {.world_size = 2, .salt = 1, .step = 5});
  ExpectSaved(directory.path(), {.world_size = 3, .salt = 2, .step = 5});
  EXPECT_THAT(Names(directory.path()), ElementsAre("step-000000000005"));
  EXPECT_TRUE(LoadOnAll(directory.path(), 2, 2)[0].equal);
}

// Makes the n-th call of a kind, or of any kind, fail.
class FailingFileSystem : public FileSystem {
 public:
  int fail_at = -1;  // by count of calls
  int error = EIO;
  std::string only;  // "" or the call's name
  bool can_exchange = true;
  std::vector<std::string> calls;

  int Open(int directory, const char* path, int flags, mode_t mode) override {
    if ((flags & O_CREAT) == 0) return FileSystem::Open(directory, path, flags, mode);
    return Fails("create") ? -1 : FileSystem::Open(directory, path, flags, mode);
  }
  ssize_t Write(int file, const void* data, size_t size) override {
    return Fails("write") ? -1 : FileSystem::Write(file, data, size);
  }
  int Sync(int file) override { return Fails("sync") ? -1 : FileSystem::Sync(file); }
  int Close(int file) override {
    const int result = FileSystem::Close(file);
    return Fails("close") ? -1 : result;
  }
  int MakeDirectory(int directory, const char* path) override {
    return Fails("mkdir") ? -1 : FileSystem::MakeDirectory(directory, path);
  }
  int Rename(int directory, const char* from, const char* to) override {
    return Fails("rename") ? -1 : FileSystem::Rename(directory, from, to);
  }
  int Exchange(int directory, const char* one, const char* other) override {
    if (!can_exchange) {
      errno = EINVAL;
      return -1;
    }
    return Fails("exchange") ? -1 : FileSystem::Exchange(directory, one, other);
  }

 private:
  bool Fails(const std::string& call) {
    if (!only.empty() && call != only) return false;
    calls.push_back(call);
    if (static_cast<int>(calls.size()) - 1 != fail_at) return false;
    errno = error;
    return true;
  }
};

// D4, D3, D8: whichever call fails on whichever rank, all ranks get that rank's error, the last good checkpoint stays,
// and no temporary directory does.
TEST(CheckpointTest, D4EveryFailingCallLeavesTheLastGoodOne) {
  for (const int64_t step : {1, 2}) {  // 1: replaces the last good one
    for (int failing = 0; failing < 2; ++failing) {
      for (int at = 0;; ++at) {
        TemporaryDirectory directory;
        ExpectSaved(directory.path(), {.model = {Spec("w", {2000})}, .world_size = 2, .salt = 1, .step = 1});
        FailingFileSystem broken;
        broken.fail_at = at;
        broken.error = at % 2 == 0 ? EIO : ENOSPC;
        FileSystem sound;
        std::vector<FileSystem*> file_systems = {&sound, &sound};
        file_systems[static_cast<size_t>(failing)] = &broken;
        const std::vector<absl::Status> statuses = SaveOnAll(
            directory.path(),
            {.model = {Spec("w", {2000})}, .world_size = 2, .salt = 2, .step = step, .file_systems = file_systems});
        if (static_cast<int>(broken.calls.size()) <= at) break;
        // A close that only follows reading cannot lose anything.
        if (statuses[0].ok()) {
          ASSERT_EQ(broken.calls[static_cast<size_t>(at)], "close");
          continue;
        }
        EXPECT_EQ(statuses[0], statuses[1]);
        // Never DataLoss, which says that bytes failed verification.
        EXPECT_EQ(statuses[0].code(), at % 2 == 0 ? absl::StatusCode::kUnknown : absl::StatusCode::kResourceExhausted)
            << statuses[0];
        EXPECT_THAT(std::string(statuses[0].message()), HasSubstr("rank " + std::to_string(failing)));
        EXPECT_THAT(std::string(statuses[0].message()),
                    HasSubstr(at % 2 == 0 ? "Input/output error" : "No space left on device"));
        EXPECT_THAT(std::string(statuses[0].message()), HasSubstr(directory.path()));
        EXPECT_THAT(Names(directory.path()), ElementsAre("step-000000000001"))
            << broken.calls[static_cast<size_t>(at)] << " " << at << " of step " << step;
        EXPECT_TRUE(LoadOnAll(directory.path(), 1, 1, {Spec("w", {2000})})[0].equal);
      }
    }
  }
}

// D4: a sync that failed is not tried again, EINTR included.
TEST(CheckpointTest, D4SyncIsNeverRetried) {
  TemporaryDirectory directory;
  FailingFileSystem broken;
  broken.only = "sync";
  broken.fail_at = 0;
  broken.error = EINTR;
  EXPECT_FALSE(SaveOnAll(directory.path(), {.file_systems = {&broken}})[0].ok());
  EXPECT_THAT(broken.calls, SizeIs(1));
}

TEST(CheckpointTest, WithoutExchangeOnlyADamagedOneIsReplaced) {
  TemporaryDirectory directory;
  ExpectSaved(directory.path(), {.salt = 1, .step = 5});
  FailingFileSystem plain;
  plain.can_exchange = false;
  const TestSave again = {.salt = 2, .step = 5, .file_systems = {&plain}};
  EXPECT_EQ(SaveOnAll(directory.path(), again)[0].code(), absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(LoadOnAll(directory.path(), 1, 1)[0].equal);
  std::filesystem::remove(directory / "step-000000000005/MANIFEST");
  ExpectSaved(directory.path(), again);
  EXPECT_THAT(Names(directory.path()), ElementsAre("step-000000000005"));
  EXPECT_TRUE(LoadOnAll(directory.path(), 1, 2)[0].equal);
}

// D8: a file where the directory should be.
TEST(CheckpointTest, D8DirectoryThatIsAFileIsNamed) {
  TemporaryDirectory directory;
  WriteBytes(directory / "ckpt", "a file");
  for (const absl::Status& status : SaveOnAll(directory / "ckpt", {.world_size = 3})) {
    EXPECT_THAT(std::string(status.message()), HasSubstr("/ckpt"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("rank 0"));
  }
}

// Writes and reads a few bytes at a time, and is interrupted every other time.
class HaltingFileSystem : public FileSystem {
 public:
  ssize_t Write(int file, const void* data, size_t size) override {
    return Interrupted() ? -1 : FileSystem::Write(file, data, std::min<size_t>(size, 37));
  }
  ssize_t Read(int file, void* data, size_t size, off_t offset) override {
    return Interrupted() ? -1 : FileSystem::Read(file, data, std::min<size_t>(size, 53), offset);
  }

 private:
  bool Interrupted() {
    errno = EINTR;
    return ++calls_ % 2 == 0;
  }
  int calls_ = 0;
};

// D5
TEST(CheckpointTest, D5ShortCountsAndInterruptsAreCompleted) {
  TemporaryDirectory directory;
  HaltingFileSystem one, two;
  ExpectSaved(directory.path(), {.world_size = 2, .salt = 4, .file_systems = {&one, &two}});
  for (const LoadOutcome& outcome : LoadOnAll(directory.path(), 2, 4, MixedParameters(), {&two, &one})) {
    EXPECT_TRUE(outcome.equal) << outcome.status;
  }
}

// K8: what version 1 wrote loads for ever.
TEST(CheckpointTest, K8GoldenVersion1) {
  const std::string directory = std::string(SHARDSTEP_TESTDATA) + "/checkpoint_v1";
  for (int world_size = 1; world_size <= 3; ++world_size) {
    for (const LoadOutcome& outcome : LoadOnAll(directory, world_size, 8, {Spec("w", {11, 100}), Spec("b", {7})})) {
      ASSERT_TRUE(outcome.status.ok()) << outcome.status;
      EXPECT_TRUE(outcome.equal);
      EXPECT_EQ(outcome.info.step, 7);
      EXPECT_EQ(outcome.info.caller_state, std::string("caller\0state", 12));
    }
  }
}

// K8: the writer still writes version 1, byte by byte.
TEST(CheckpointTest, K8WriterMatchesGolden) {
  TemporaryDirectory directory;
  ExpectSaved(directory.path(),
              {.model = {Spec("w", {11, 100}), Spec("b", {7})}, .world_size = 2, .salt = 8, .step = 7});
  const std::string golden = std::string(SHARDSTEP_TESTDATA) + "/checkpoint_v1/step-000000000007";
  for (const char* name : {"shard-0-of-2.safetensors", "shard-1-of-2.safetensors"}) {
    EXPECT_EQ(ReadBytes(directory / "step-000000000007/" + name), ReadBytes(golden + "/" + name)) << name;
  }
}

}  // namespace
}  // namespace shardstep
