#include "shardstep/comm/inproc/thread_rendezvous.h"

#include <thread>

#include "shardstep/tests/comm/rank_threads.h"
#include "shardstep/tests/comm/rendezvous_contract.h"

namespace shardstep {
namespace {

RendezvousBackend Threads(int world_size) {
  return {.name = absl::StrCat("Ranks", world_size),
          .run = [=](const std::function<void(Rendezvous&, Rendezvous&)>& body) {
            ThreadRendezvousGroup tested(world_size);
            RunRankThreads(world_size, [&](Rendezvous& meeting) { body(*tested.Join(meeting.rank()), meeting); });
          }};
}

INSTANTIATE_TEST_SUITE_P(Threads, RendezvousContract, testing::Values(Threads(1), Threads(2), Threads(3), Threads(4)),
                         RendezvousName);

TEST(ThreadRendezvousTest, AnInfiniteDeadlineDoesNotOverflow) {
  RunRankThreads(2, [](Rendezvous& rendezvous) {
    EXPECT_TRUE(rendezvous.AllGatherBytes("forever", "", absl::InfiniteDuration()).ok());
  });
}

}  // namespace
}  // namespace shardstep
