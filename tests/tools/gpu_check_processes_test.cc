#include "shardstep/tools/gpu_check/rank_processes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "shardstep/comm/tcp/socket.h"

namespace shardstep::gpu_check {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

absl::StatusOr<std::vector<std::string>> RunShells(int ranks, const std::function<std::string(int)>& script,
                                                   absl::Duration deadline = absl::Minutes(1)) {
  return RunRankProcesses(
      "/bin/sh", ranks,
      [&](int rank) {
        return std::vector<std::string>{"-c", script(rank)};
      },
      deadline);
}

TEST(GpuCheckProcessesTest, EveryRanksOutputComesBack) {
  const auto texts = RunShells(3, [](int rank) { return absl::StrCat("echo rank ", rank, "; echo of 3"); });
  ASSERT_TRUE(texts.ok()) << texts.status();
  EXPECT_THAT(*texts, ElementsAre("rank 0\nof 3", "rank 1\nof 3", "rank 2\nof 3"));
}

TEST(GpuCheckProcessesTest, ARankThatFailsIsNamedWithItsLastLine) {
  const auto failed = RunShells(3, [](int rank) { return rank == 1 ? "echo first; echo why; exit 7" : "echo fine"; });
  EXPECT_EQ(failed.status().message(), "rank 1 ended with 7: why");
  const auto killed = RunShells(2, [](int rank) { return rank == 1 ? "kill -9 $$" : "true"; });
  EXPECT_EQ(killed.status().message(), "rank 1 ended by signal 9");
}

TEST(GpuCheckProcessesTest, RanksThatDoNotEndAreNamedAndKilled) {
  const auto late = RunShells(
      3, [](int rank) { return rank == 0 ? "true" : "exec sleep 1000"; }, absl::Milliseconds(200));
  EXPECT_EQ(late.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(late.status().message()), HasSubstr("1, 2"));
}

TEST(GpuCheckProcessesTest, AProgramThatIsNotThereIsNamed) {
  const auto none = RunRankProcesses(
      "/nowhere/program", 1, [](int) { return std::vector<std::string>(); }, absl::Minutes(1));
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("/nowhere/program"));
}

TEST(GpuCheckProcessesTest, AnAddressThatCanBeListenedAt) {
  const auto address = FreeLoopbackAddress();
  ASSERT_TRUE(address.ok()) << address.status();
  const auto parsed = ParseAddress(*address);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(Listen(*parsed).ok());
}

}  // namespace
}  // namespace shardstep::gpu_check
