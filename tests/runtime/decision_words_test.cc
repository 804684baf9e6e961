#include "shardstep/runtime/decision_words.h"

#include <gtest/gtest.h>

#include <vector>

namespace shardstep {
namespace {

TEST(DecisionWords, ScansAddUp) {
  ScanResult a, b;
  a.squared_norm.Add(0x1p-298);
  a.max_abs_bits = 7;
  a.first_overflow = MakePlace(1, 5);
  b.squared_norm.Add(0x1p200);
  b.max_abs_bits = 9;
  b.first_nonfinite = MakePlace(3, 2);
  SmallReduction sum = NeutralPart();
  for (const ScanResult& scan : {a, b, ScanResult()}) {
    SmallReduction part = NeutralPart();
    PutScan(scan, &part);
    sum.Merge(part);
  }
  sum.Merge(NeutralPart());
  ScanResult all = TakeScan(sum);
  a.Merge(b);
  all.squared_norm.Normalize();
  a.squared_norm.Normalize();
  EXPECT_EQ(all.squared_norm.limbs(), a.squared_norm.limbs());
  EXPECT_EQ(all.max_abs_bits, 9u);
  EXPECT_EQ(all.first_nonfinite, MakePlace(3, 2));
  EXPECT_EQ(all.first_overflow, MakePlace(1, 5));
  const auto place = FirstPlace(all);
  ASSERT_TRUE(place.has_value());
  EXPECT_EQ(place->micro_batch, 3);
  EXPECT_EQ(place->global_element, 2);
  EXPECT_FALSE(place->sum_overflow);
  EXPECT_FALSE(FirstPlace(TakeScan(NeutralPart())).has_value());
}

// Two that differ are found among many, in the first field that they differ in, whoever they are.
TEST(DecisionWords, DifferencesNameTwo) {
  const auto reduce = [](int different, int field) {
    SmallReduction sum = NeutralPart();
    for (const int participant : {0, 1, 77, kMaxParticipants - 1}) {
      std::vector<AgreedField> fields(kMaxAgreedFields, {"field", 5});
      if (participant == different) fields[field].value = 6;
      if (participant == different) fields[kMaxAgreedFields - 1].value = 6;
      SmallReduction part = NeutralPart();
      PutAgreed(fields, participant, &part);
      sum.Merge(part);
    }
    return FindDifference(kMaxAgreedFields, sum);
  };
  EXPECT_FALSE(reduce(-1, 0).has_value());
  for (const int different : {0, 1, 77, kMaxParticipants - 1}) {
    for (const int field : {0, 3, kMaxAgreedFields - 1}) {
      const auto found = reduce(different, field);
      ASSERT_TRUE(found.has_value());
      EXPECT_EQ(found->what, field);
      EXPECT_TRUE((found->first == different) != (found->other == different)) << found->first << " " << found->other;
    }
  }
}

TEST(DecisionWords, TheSmallestObjectionIsHeard) {
  EXPECT_FALSE(TakeObjection(NeutralPart()).has_value());
  SmallReduction sum = NeutralPart();
  for (const Objection& objection :
       {Objection{.member = 3, .what = 1, .first = 65535, .other = 65534},
        Objection{.member = 2, .what = Objection::kMisplaced, .first = 65535, .other = (1 << 24) - 1}}) {
    SmallReduction part = NeutralPart();
    PutObjection(objection, &part);
    sum.Merge(part);
  }
  const auto objection = TakeObjection(sum);
  ASSERT_TRUE(objection.has_value());
  EXPECT_EQ(objection->member, 2);
  EXPECT_EQ(objection->what, Objection::kMisplaced);
  EXPECT_EQ(objection->first, 65535);
  EXPECT_EQ(objection->other, (1 << 24) - 1);
}

}  // namespace
}  // namespace shardstep
