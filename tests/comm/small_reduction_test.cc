#include "shardstep/comm/mpi/small_reduction.h"

#include <limits>

#include "gtest/gtest.h"

namespace shardstep {
namespace {

constexpr int64_t kDeadlineNs = 1000;

ReductionHub Hub(int members) { return ReductionHub(members, absl::Nanoseconds(kDeadlineNs)); }

SmallReduction Of(int64_t sum, uint64_t minimum) {
  SmallReduction reduction;
  reduction.sums.fill(sum);
  reduction.minima.fill(minimum);
  return reduction;
}

TEST(SmallReductionTest, SumsWrapAndMinimaAreUnsigned) {
  SmallReduction into = Of(std::numeric_limits<int64_t>::max(), ~uint64_t{0});
  into.Merge(Of(1, uint64_t{1} << 63));
  EXPECT_EQ(into.sums[31], std::numeric_limits<int64_t>::min());
  EXPECT_EQ(into.minima[63], uint64_t{1} << 63);
}

TEST(SmallReductionTest, AResultNeedsEveryMemberOnce) {
  ReductionHub hub = Hub(3);
  hub.Arrive(2, 0, Of(100, 5), 0);
  hub.Arrive(0, 0, Of(1, 9), 0);
  hub.Arrive(0, 0, Of(1000, 0), 0);  // again
  EXPECT_FALSE(hub.Poll(kDeadlineNs - 1, 0).has_value());
  hub.Arrive(1, 0, Of(10, 7), 0);
  const auto outcome = hub.Poll(0, 0);
  ASSERT_TRUE(outcome.has_value());
  EXPECT_EQ(outcome->number, 0);
  EXPECT_TRUE(outcome->absent.empty());
  EXPECT_EQ(outcome->result.sums, Of(111, 5).sums);
  EXPECT_EQ(outcome->result.minima, Of(111, 5).minima);
  EXPECT_FALSE(hub.Poll(0, 0).has_value());
}

TEST(SmallReductionTest, TheDeadlineCountsFromTheFirstArrivalAndNamesTheOthers) {
  ReductionHub hub = Hub(4);
  EXPECT_FALSE(hub.Poll(1 << 20, 0).has_value());
  hub.Arrive(2, 7, Of(1, 1), 500);
  hub.Arrive(0, 7, Of(1, 1), 1400);
  EXPECT_FALSE(hub.Poll(500 + kDeadlineNs - 1, 0).has_value());
  const auto outcome = hub.Poll(500 + kDeadlineNs, 0);
  ASSERT_TRUE(outcome.has_value());
  EXPECT_EQ(outcome->number, 7);
  EXPECT_EQ(outcome->absent, (std::vector<int>{1, 3}));
}

TEST(SmallReductionTest, NoDeadlineRunsWhileARankIsAway) {
  ReductionHub hub = Hub(2);
  hub.Arrive(0, 0, Of(1, 1), 0);
  EXPECT_FALSE(hub.Poll(5000, 4500).has_value());
  EXPECT_TRUE(hub.Poll(5500, 4500).has_value());
}

TEST(SmallReductionTest, WhoComesAfterTheDecisionIsIgnored) {
  ReductionHub hub = Hub(2);
  hub.Arrive(0, 0, Of(1, 1), 0);
  ASSERT_TRUE(hub.Poll(kDeadlineNs, 0).has_value());
  hub.Arrive(1, 0, Of(1, 1), kDeadlineNs);
  EXPECT_FALSE(hub.Poll(10 * kDeadlineNs, 0).has_value());
  hub.Arrive(1, 1, Of(2, 2), 0);
  hub.Arrive(0, 1, Of(3, 3), 0);
  const auto next = hub.Poll(0, 0);
  ASSERT_TRUE(next.has_value());
  EXPECT_EQ(next->number, 1);
  EXPECT_EQ(next->result.sums[0], 5);
}

TEST(SmallReductionTest, AnEndlessDeadlineDoesNotOverflow) {
  ReductionHub hub(2, absl::InfiniteDuration());
  hub.Arrive(0, 0, Of(1, 1), 0);
  EXPECT_FALSE(hub.Poll(std::numeric_limits<int64_t>::max(), 1).has_value());
}

}  // namespace
}  // namespace shardstep
