#include "shardstep/comm/mpi/mpi_communicator.h"

#include <numeric>

#include "shardstep/tests/comm/joining_contract.h"
#include "shardstep/tests/comm/mpi_main.h"

namespace shardstep {
namespace {

std::vector<ContractBackend>& Backends() {
  static std::vector<ContractBackend> backends;
  return backends;
}

INSTANTIATE_TEST_SUITE_P(Mpi, CommunicatorContract, testing::ValuesIn(Backends()), BackendName);
INSTANTIATE_TEST_SUITE_P(Mpi, JoiningContract, testing::ValuesIn(Backends()), BackendName);

ContractBackend Backend(MpiRendezvous& owner, absl::string_view name, int64_t max_message_bytes, int landing_buckets) {
  return {.name = std::string(name),
          .run = [&owner](const std::function<void(Rendezvous&)>& body) { body(owner); },
          .create =
              [&owner, max_message_bytes, landing_buckets](Rendezvous&, absl::Duration wait_deadline) {
                std::vector<int> members(static_cast<size_t>(owner.world_size()));
                std::iota(members.begin(), members.end(), 0);
                return CreateMpiCommunicator(owner, members,
                                             {.wait_deadline = wait_deadline,
                                              .max_message_bytes = max_message_bytes,
                                              .landing_buckets = landing_buckets});
              }};
}

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) {
  using shardstep::MpiRendezvous;
  return shardstep::MpiTestMain(argc, argv, [](MpiRendezvous& owner) {
    shardstep::Backends().push_back(shardstep::Backend(owner, "Whole", int64_t{256} << 20, 2));
    shardstep::Backends().push_back(shardstep::Backend(owner, "Cut", 4096, 3));
  });
}
