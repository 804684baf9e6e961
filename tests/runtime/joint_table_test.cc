#include "shardstep/runtime/joint_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace shardstep {
namespace {

using ::testing::HasSubstr;

JointEntry Entry(const std::string& name, int rank, int world_size,
                 std::vector<std::pair<std::string, int64_t>> parameters) {
  return {.name = name, .rank = rank, .world_size = world_size, .parameters = std::move(parameters)};
}

// "dense" on three ranks, "empty" beside it on rank 0, "expert" on ranks 2 and 1.
std::vector<std::vector<JointEntry>> ThreeRanks() {
  const auto dense = [](int rank) { return Entry("dense", rank, 3, {{"a", 5}, {"nothing", 0}, {"b", 7}}); };
  const auto expert = [](int rank) { return Entry("expert", rank, 2, {{"c", 3}}); };
  return {{dense(0), Entry("empty", 0, 1, {{"nothing", 0}})}, {dense(1), expert(1)}, {expert(0), dense(2)}};
}

TEST(JointTable, EntriesComeBackFromText) {
  std::vector<JointEntry> entries = {Entry("with\ttab, \"quote\"\nand line", 2, 4, {{"p\n\t\\\xc3\xa9", 7}, {"", 0}}),
                                     Entry("nothing", 0, 1, {})};
  entries[1].non_finite = NonFinitePolicy::kError;
  entries[1].max_consecutive_skips = 12;
  const auto decoded = DecodeEntries(EncodeEntries(entries));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_EQ(decoded->size(), 2u);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ((*decoded)[i].name, entries[i].name);
    EXPECT_EQ((*decoded)[i].rank, entries[i].rank);
    EXPECT_EQ((*decoded)[i].world_size, entries[i].world_size);
    EXPECT_EQ((*decoded)[i].non_finite, entries[i].non_finite);
    EXPECT_EQ((*decoded)[i].max_consecutive_skips, entries[i].max_consecutive_skips);
    EXPECT_EQ((*decoded)[i].parameters, entries[i].parameters);
  }
  for (const char* bad : {"", "parameter\ta\t1\n", "optimizer\ta\t0\t1\t0\n", "optimizer\ta\t1\t1\t0\t1\n",
                          "optimizer\ta\t0\t1\t0\tx\n", "hello"}) {
    EXPECT_EQ(DecodeEntries(bad).status().code(), absl::StatusCode::kInternal) << bad;
  }
}

TEST(JointTable, NamesPlacesOfAllMembers) {
  const auto table = JointTable::Create(ThreeRanks());
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->begin_element(0), 0);
  EXPECT_EQ(table->begin_element(table->member(0, 1)), 12);
  EXPECT_EQ(table->begin_element(table->member(1, 1)), 12);
  const auto at = [&](int64_t global_element, int64_t micro_batch) {
    return table->Locate({.micro_batch = micro_batch, .global_element = global_element});
  };
  EXPECT_EQ(at(4, 0).parameter, "a");
  EXPECT_EQ(at(5, 0).parameter, "b");
  EXPECT_EQ(at(11, 5).element, 6);
  EXPECT_EQ(at(11, 5).optimizer, "dense");
  EXPECT_EQ(at(11, 5).rank, 2);
  EXPECT_EQ(at(12, 5).optimizer, "expert");
  EXPECT_EQ(at(14, 5).element, 2);
  EXPECT_EQ(at(14, 5).rank, 1);
  EXPECT_EQ(at(14, 4).rank, 2);
}

TEST(JointTable, NamesSeatsAndRefusals) {
  const auto table = JointTable::Create(ThreeRanks());
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->DescribeSeat(table->seat(0, 2)), "rank 2 (\"dense\")");
  EXPECT_EQ(table->DescribeSeat(table->seat(1, 0)), "rank 0 (\"empty\")");
  EXPECT_EQ(table->DescribeSeat(table->seat(2, 1)), "rank 1 (\"expert\")");
  EXPECT_THAT(std::string(table->Refusal({.member = 2, .what = 3, .first = 0, .other = 1}).message()),
              HasSubstr("\"expert\": ranks 2 and 1 called Step with different learning_rate"));
  EXPECT_THAT(
      std::string(table->Refusal({.member = 2, .what = Objection::kMisplaced, .first = 1, .other = 1}).message()),
      HasSubstr("\"expert\": rank 1 marked gradients ready in micro-step 1"));
}

// 2^40 elements is what places can tell apart, 2^16 ranks what words can.
TEST(JointTable, RefusesWhatPlacesCannotTellApart) {
  constexpr int64_t kHalf = int64_t{1} << 39;
  EXPECT_TRUE(JointTable::Create({{Entry("a", 0, 1, {{"p", kHalf}}), Entry("b", 0, 1, {{"q", kHalf}})}}).ok());
  const auto table = JointTable::Create({{Entry("a", 0, 1, {{"p", kHalf}}), Entry("b", 0, 1, {{"q", kHalf + 1}})}});
  EXPECT_EQ(table.status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shardstep
