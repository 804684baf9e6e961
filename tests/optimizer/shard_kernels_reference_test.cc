// The reference kernels against the oracle of these tests.
#include <gtest/gtest.h>

#include "kernel_case.h"
#include "kernel_oracle.h"
#include "shardstep/optimizer/shard_kernels.h"

namespace shardstep {
namespace {

::testing::AssertionResult JudgedByOracle(const KernelCase& start) {
  KernelCase expected = start;
  KernelCase actual = start;
  OracleReduce(&expected);
  ReduceReference(actual.Reduce());
  if (auto same = SameResults(actual, expected); !same) return same << " after Reduce";
  OracleUpdate(&expected);
  UpdateReference(actual.Update());
  return SameResults(actual, expected);
}

TEST(ReferenceTest, N5EveryRuleMasterAndRoundingEqualsTheOracle) {
  for (const NamedUpdate& update : AllUpdates()) {
    for (const Values values : {Values::kPlain, Values::kNasty}) {
      for (const bool nesterov : {false, true}) {
        const KernelCase start({.sizes = {1, 3000, 0, 1024, 77},
                                .values = values,
                                .accumulator = AccumulatorUse::kInAndOut,
                                .kind = update.kind,
                                .weight_dtype = update.weight_dtype,
                                .nesterov = nesterov,
                                .destinations = 2,
                                .global_begin_element = (int64_t{1} << 35) - 1000,
                                .seed = 3});
        ASSERT_TRUE(JudgedByOracle(start)) << update.name;
      }
    }
  }
}

TEST(ReferenceTest, GroupsThatSpanMicroStepsEqualTheOracle) {
  for (const int64_t sum_group : {1, 2, 3, 7}) {
    for (int64_t first = 0; first < 8; ++first) {
      for (const int slices : {0, 1, 2, 3, 5}) {
        for (const auto use : {AccumulatorUse::kNone, AccumulatorUse::kIn, AccumulatorUse::kInPlace}) {
          for (const bool closes : {false, true}) {
            const KernelCase start({.sizes = {100},
                                    .slices = Slices(slices),
                                    .values = first % 2 == 0 ? Values::kPlain : Values::kNasty,
                                    .accumulator = use,
                                    .sum_group = sum_group,
                                    .first_micro_batch = first,
                                    .closes = closes,
                                    .rounds = true});
            ASSERT_TRUE(JudgedByOracle(start)) << "groups of " << sum_group << " from " << first << ", " << slices;
          }
        }
      }
    }
  }
}

TEST(ReferenceTest, PartialSumsAndMixedDtypesEqualTheOracle) {
  // Groups of 2 from micro-batch 5 on: the end of one, a whole one in bf16, a whole one in fp32, half of one.
  const std::vector<Slice> halves_and_wholes = {{.rank = 0},
                                                {.rank = 1, .ranks = 2, .partial = true},
                                                {.dtype = DType::kFp32, .rank = 3, .ranks = 2, .partial = true},
                                                {.dtype = DType::kFp32, .rank = 5}};
  // Micro-batches of one rank, added up by it.
  const std::vector<Slice> local = {{.dtype = DType::kFp32, .rank = 0, .partial = true},
                                    {.dtype = DType::kFp32, .rank = 1, .partial = true},
                                    {.rank = 2}};
  // A host's sum without groups.
  const std::vector<Slice> hosts = {{.rank = 0, .ranks = 3, .partial = true}, {.rank = 3, .ranks = 3, .partial = true}};
  for (const uint32_t seed : {1, 2, 3}) {
    for (const bool closes : {false, true}) {
      KernelCaseOptions options = {.sizes = {1500, 20},
                                   .slices = halves_and_wholes,
                                   .values = Values::kNasty,
                                   .accumulator = AccumulatorUse::kInAndOut,
                                   .sum_group = 2,
                                   .closes = closes,
                                   .seed = seed};
      ASSERT_TRUE(JudgedByOracle(KernelCase(options)));
      options.slices.pop_back();
      ASSERT_TRUE(JudgedByOracle(KernelCase(options))) << "a whole group is the last";
      options.slices = local;
      ASSERT_TRUE(JudgedByOracle(KernelCase(options)));
      options.slices = hosts;
      options.sum_group = 1;
      ASSERT_TRUE(JudgedByOracle(KernelCase(options)));
    }
  }
}

}  // namespace
}  // namespace shardstep
