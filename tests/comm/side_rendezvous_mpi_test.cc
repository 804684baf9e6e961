// Side rendezvous of ranks that are processes of mpirun.

#include "shardstep/comm/tcp/side_rendezvous.h"
#include "shardstep/tests/comm/mpi_job.h"

namespace shardstep {
namespace {

class SideRendezvousMpiTest : public MpiJobTest {
 protected:
  /// Even and odd ranks, the last one first.
  std::vector<int> Members() {
    std::vector<int> members;
    for (int r = world_size() - 1; r >= 0; --r) {
      if (r % 2 == rank() % 2) members.push_back(r);
    }
    return members;
  }
};

TEST_F(SideRendezvousMpiTest, GroupsMeetEachByItselfWhileAllMeetByMpi) {
  const auto side = CreateSideRendezvous(rendezvous(), Members(), {.deadline = kLong});
  ASSERT_TRUE(side.ok()) << side.status();
  std::vector<std::string> expected;
  for (const int member : Members()) expected.push_back(absl::StrCat(member));
  std::thread watching([&] {
    for (int i = 0; i < 100; ++i) {
      const auto all = (*side)->AllGatherBytes("beat", absl::StrCat(rank()), kLong);
      ASSERT_TRUE(all.ok()) << all.status();
      EXPECT_EQ(*all, expected);
    }
  });
  for (int i = 0; i < 10; ++i) Meet();
  watching.join();
  Meet();
}

TEST_F(SideRendezvousMpiTest, ARefusalOfOneRankIsThatOfAll) {
  const SideRendezvousOptions options{.deadline = rank() == 1 ? absl::ZeroDuration() : kLong};
  EXPECT_EQ(CreateSideRendezvous(rendezvous(), Members(), options).status(),
            absl::InvalidArgumentError("rank 1: deadline: 0 is not positive"));
  Meet();
}

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) { return shardstep::MpiJobMain(argc, argv); }
