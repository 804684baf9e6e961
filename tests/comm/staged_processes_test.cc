// The contract for ranks that are processes, each with a fake GPU of its own: over shared memory and over MPI.

#include <numeric>

#include "shardstep/comm/mpi/mpi_communicator.h"
#include "shardstep/tests/comm/joining_contract.h"
#include "shardstep/tests/comm/mpi_main.h"
#include "shardstep/tests/comm/staged_machine.h"
#include "shardstep/tests/cuda/cuda_contract_device.h"

namespace shardstep {
namespace {

std::vector<ContractBackend>& Shm() {
  static std::vector<ContractBackend> backends;
  return backends;
}

std::vector<ContractBackend>& Mpi() {
  static std::vector<ContractBackend> backends;
  return backends;
}

INSTANTIATE_TEST_SUITE_P(StagedShm, CommunicatorContract, testing::ValuesIn(Shm()), BackendName);
INSTANTIATE_TEST_SUITE_P(StagedMpi, CommunicatorContract, testing::ValuesIn(Mpi()), BackendName);
INSTANTIATE_TEST_SUITE_P(StagedMpi, JoiningContract, testing::ValuesIn(Mpi()), BackendName);

ContractBackend Backend(Rendezvous& owner, absl::string_view name, const CreateInner& create_inner) {
  const auto machine = std::make_shared<std::unique_ptr<StagedMachine>>();
  return {.name = std::string(name),
          .run =
              [=, &owner](const std::function<void(Rendezvous&)>& body) {
                *machine = std::make_unique<StagedMachine>(owner.world_size(), create_inner);
                body(owner);
                (*machine)->ExpectClean();
                machine->reset();
              },
          .create = [=](Rendezvous& rendezvous,
                        absl::Duration wait_deadline) { return (*machine)->Create(rendezvous, wait_deadline); },
          .device =
              [=](int rank) {
                return std::make_unique<CudaContractDevice>((*machine)->cuda, (*machine)->device(rank),
                                                            (*machine)->memory(rank));
              }};
}

absl::StatusOr<std::unique_ptr<Communicator>> CreateMpiInner(MpiRendezvous& owner, absl::Duration wait_deadline) {
  std::vector<int> members(static_cast<size_t>(owner.world_size()));
  std::iota(members.begin(), members.end(), 0);
  return CreateMpiCommunicator(owner, members, {.wait_deadline = wait_deadline});
}

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) {
  using shardstep::MpiRendezvous;
  return shardstep::MpiTestMain(argc, argv, [](MpiRendezvous& owner) {
    shardstep::Shm().push_back(
        shardstep::Backend(owner, "Process", [](shardstep::Rendezvous& rendezvous, absl::Duration wait_deadline) {
          return shardstep::CreateShmCommunicator(rendezvous, {.wait_deadline = wait_deadline});
        }));
    shardstep::Mpi().push_back(
        shardstep::Backend(owner, "Process", [&owner](shardstep::Rendezvous&, absl::Duration wait_deadline) {
          return shardstep::CreateMpiInner(owner, wait_deadline);
        }));
  });
}
