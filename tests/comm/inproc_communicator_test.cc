#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/tests/comm/communicator_contract.h"
#include "shardstep/tests/comm/rank_threads.h"

namespace shardstep {
namespace {

ContractBackend Inproc(int world_size) {
  return {.name = absl::StrCat("Ranks", world_size),
          .run = [=](const std::function<void(Rendezvous&)>& body) { RunRankThreads(world_size, body); },
          .create =
              [](Rendezvous& rendezvous, absl::Duration wait_deadline) {
                return CreateInprocCommunicator(rendezvous, {.wait_deadline = wait_deadline, .host_id = "test"});
              }};
}

INSTANTIATE_TEST_SUITE_P(Inproc, CommunicatorContract, testing::Values(Inproc(1), Inproc(2), Inproc(3), Inproc(4)),
                         BackendName);

}  // namespace
}  // namespace shardstep
