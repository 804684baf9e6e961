// NCCL of this machine, where there is one, and what is no NCCL.

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shardstep/comm/nccl/nccl_api.h"

/// What the machine's NCCL loses is not ours.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() { return "leak:libnccl.so"; }

namespace shardstep {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

TEST(NcclLibraryTest, AMissingLibraryIsNamed) {
  const auto nccl = LoadNccl("/nowhere/libnccl.so.2");
  EXPECT_EQ(nccl.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(MessageOf(nccl.status()), AllOf(HasSubstr("NCCL: /nowhere/libnccl.so.2: "), HasSubstr("No such file")));
}

TEST(NcclLibraryTest, WhatIsNoLibraryIsNamed) {
  const std::filesystem::path path = std::filesystem::path(testing::TempDir()) / "no_library.so";
  std::ofstream(path) << "text";
  const auto nccl = LoadNccl(path);
  EXPECT_EQ(nccl.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(MessageOf(nccl.status()), HasSubstr(path.string()));
  std::filesystem::remove(path);
}

TEST(NcclLibraryTest, ALibraryWithoutItsFunctionsIsNamedWithTheFirstOne) {
  EXPECT_EQ(LoadNccl("libm.so.6").status(), absl::FailedPreconditionError("NCCL: libm.so.6 has no ncclGetVersion"));
}

// Of a library whose functions do nothing but have the names.
TEST(NcclLibraryTest, AnOldVersionIsRefusedByNumber) {
  EXPECT_EQ(LoadNccl(SHARDSTEP_OLD_NCCL).status(),
            absl::FailedPreconditionError(
                absl::StrCat("NCCL: ", SHARDSTEP_OLD_NCCL, " is version 2.8.4, 2.14.0 or later is needed")));
}

TEST(NcclLibraryTest, AVersionWithoutAllToAllIsTaken) {
  const auto nccl = LoadNccl(SHARDSTEP_NCCL_WITHOUT_ALL_TO_ALL);
  ASSERT_TRUE(nccl.ok()) << nccl.status();
  EXPECT_EQ((*nccl)->Version(), "2.18.3");
  EXPECT_FALSE((*nccl)->HasAllToAll());
  EXPECT_FALSE((*nccl)->HasRevoke());
  EXPECT_EQ((*nccl)->ErrorText(3, nullptr), "text 3");
  // What it was called with is in its result.
  float value = 0;
  EXPECT_EQ((*nccl)->Send(&value, 5, DType::kBf16, 3, nullptr, nullptr), 5 * 1000 + 9 * 10 + 3);
  EXPECT_EQ((*nccl)->Recv(&value, 6, DType::kFp32, 2, nullptr, nullptr), 6 * 1000 + 7 * 10 + 2);
  EXPECT_EQ((*nccl)->ReduceScatterSum(&value, &value, 7, DType::kBf16, nullptr, nullptr), 7 * 1000 + 9 * 10);
  int64_t sum = 0;
  uint64_t least = 0;
  EXPECT_EQ((*nccl)->AllReduceSum(&sum, &sum, 8, nullptr, nullptr), 8 * 1000 + 4 * 10);
  EXPECT_EQ((*nccl)->AllReduceMin(&least, &least, 9, nullptr, nullptr), 9 * 1000 + 5 * 10 + 3);
  NcclHandle communicator = nullptr;
  NcclId id{};
  id[0] = 'i';
  EXPECT_EQ((*nccl)->CommInitRank(&communicator, 4, id, 2), 4 * 1000 + 2 * 10) << "and the id and config as they are";
}

TEST(NcclLibraryTest, TheMachinesOwnIsUsableOrMissed) {
  absl::StatusOr<std::unique_ptr<NcclApi>> nccl = LoadNccl("");
  if (!nccl.ok() && *SHARDSTEP_NCCL_LIBRARY != '\0') nccl = LoadNccl(SHARDSTEP_NCCL_LIBRARY);
  if (!nccl.ok()) {
    EXPECT_EQ(nccl.status().code(), absl::StatusCode::kNotFound) << nccl.status();
    EXPECT_THAT(MessageOf(nccl.status()), HasSubstr("libnccl.so"));
    return;
  }
  EXPECT_THAT((*nccl)->Version(), testing::StartsWith("2."));
  EXPECT_THAT((*nccl)->ErrorText(4, nullptr), HasSubstr("invalid argument"));
  // Without a driver it may fail, but it says so.
  NcclId id{};
  const int result = (*nccl)->GetUniqueId(&id);
  if (result != NcclApi::kSuccess) {
    EXPECT_NE((*nccl)->ErrorText(result, nullptr), "");
  }
  EXPECT_EQ((*nccl)->GroupStart(), NcclApi::kSuccess);
  EXPECT_EQ((*nccl)->GroupEnd(), NcclApi::kSuccess);
}

}  // namespace
}  // namespace shardstep
