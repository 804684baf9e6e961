#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/tests/comm/communicator_contract.h"
#include "shardstep/tests/comm/mpi_main.h"

namespace shardstep {
namespace {

std::vector<ContractBackend>& Backends() {
  static std::vector<ContractBackend> backends;
  return backends;
}

INSTANTIATE_TEST_SUITE_P(ShmProcesses, CommunicatorContract, testing::ValuesIn(Backends()), BackendName);

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) {
  using shardstep::Rendezvous;
  return shardstep::MpiTestMain(argc, argv, [](Rendezvous& owner) {
    shardstep::Backends().push_back({.name = "Process",
                                     .run = [&owner](const std::function<void(Rendezvous&)>& body) { body(owner); },
                                     .create =
                                         [](Rendezvous& rendezvous, absl::Duration wait_deadline) {
                                           return shardstep::CreateShmCommunicator(rendezvous,
                                                                                   {.wait_deadline = wait_deadline});
                                         }});
  });
}
