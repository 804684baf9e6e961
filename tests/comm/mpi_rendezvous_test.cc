#include "shardstep/comm/mpi/mpi_rendezvous.h"

#include "shardstep/tests/comm/mpi_main.h"
#include "shardstep/tests/comm/rendezvous_contract.h"

namespace shardstep {
namespace {

// The rendezvous that owns MPI outlives those that the tests use up.
std::vector<RendezvousBackend>& Backends() {
  static std::vector<RendezvousBackend> backends;
  return backends;
}

INSTANTIATE_TEST_SUITE_P(Mpi, RendezvousContract, testing::ValuesIn(Backends()), RendezvousName);

TEST(MpiRendezvousTest, MessagesLongerThanTheEagerLimitArrive) {
  auto rendezvous = MpiRendezvous::Create();
  ASSERT_TRUE(rendezvous.ok()) << rendezvous.status();
  const std::string bytes(8 << 20, static_cast<char>('0' + (*rendezvous)->rank()));
  const auto all = (*rendezvous)->AllGatherBytes("long", bytes, absl::Minutes(1));
  ASSERT_TRUE(all.ok()) << all.status();
  for (size_t rank = 0; rank < all->size(); ++rank) {
    EXPECT_EQ((*all)[rank].size(), bytes.size());
    EXPECT_EQ((*all)[rank].find_first_not_of(static_cast<char>('0' + rank)), std::string::npos);
  }
}

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) {
  using shardstep::MpiRendezvous;
  using shardstep::Rendezvous;
  return shardstep::MpiTestMain(argc, argv, [](Rendezvous& owner) {
    shardstep::Backends().push_back({"Process", [&owner](const std::function<void(Rendezvous&, Rendezvous&)>& body) {
                                       auto tested = MpiRendezvous::Create();
                                       ASSERT_TRUE(tested.ok()) << tested.status();
                                       body(**tested, owner);
                                     }});
  });
}
