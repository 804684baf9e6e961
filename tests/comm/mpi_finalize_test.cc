// Who ends MPI, where the library has initialized it: one story per process.
#include <gtest/gtest.h>
#include <mpi.h>

#include "shardstep/comm/mpi/mpi_rendezvous.h"

namespace shardstep {
namespace {

bool IsFinalized() {
  int finalized = 0;
  MPI_Finalized(&finalized);
  return finalized != 0;
}

TEST(MpiFinalizeTest, TheLastOfSeveralFinalizes) {
  auto first = MpiRendezvous::Create();
  ASSERT_TRUE(first.ok()) << first.status();
  auto second = MpiRendezvous::Create();
  ASSERT_TRUE(second.ok()) << second.status();
  first->reset();
  ASSERT_FALSE(IsFinalized());
  const auto all = (*second)->AllGatherBytes("after the first", "", absl::Minutes(1));
  ASSERT_TRUE(all.ok()) << all.status();
  auto third = MpiRendezvous::Create();
  ASSERT_TRUE(third.ok()) << third.status();
  second->reset();
  ASSERT_FALSE(IsFinalized());
  third->reset();
  EXPECT_TRUE(IsFinalized());
  EXPECT_TRUE(absl::IsFailedPrecondition(MpiRendezvous::Create().status()));
}

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
