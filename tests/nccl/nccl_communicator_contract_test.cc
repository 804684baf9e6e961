// The contract of every communicator, for NCCL over the fakes.

#include "shardstep/tests/comm/joining_contract.h"
#include "shardstep/tests/nccl/nccl_machine.h"

namespace shardstep {
namespace {

constexpr absl::Duration kHeartbeat = absl::Milliseconds(5);

struct Variant {
  std::string name;
  int world_size = 1;
  FakeNcclOptions nccl;
  uint64_t delay_seed = 0;
  int landing_buckets = 3;
};

ContractBackend Backend(const Variant& variant) {
  const auto machine = std::make_shared<std::unique_ptr<NcclMachine>>();
  return {.name = absl::StrCat(variant.name, variant.world_size),
          .run =
              [=](const std::function<void(Rendezvous&)>& body) {
                *machine = std::make_unique<NcclMachine>(variant.world_size, variant.nccl,
                                                         FakeCudaOptions{.delay_seed = variant.delay_seed});
                (*machine)->Run(body);
                (*machine)->ExpectClean();
                machine->reset();
              },
          .create =
              [=](Rendezvous& rendezvous, absl::Duration wait_deadline) {
                return (*machine)->Create(rendezvous, {.wait_deadline = wait_deadline,
                                                       .landing_buckets = variant.landing_buckets,
                                                       .heartbeat = kHeartbeat});
              },
          .device = [=](int rank) { return std::make_unique<NcclContractDevice>(**machine, rank); },
          .kinds_may_cross = false};
}

std::vector<ContractBackend> Backends() {
  std::vector<ContractBackend> backends;
  for (const int world_size : {1, 2, 4}) {
    backends.push_back(Backend({.name = "AllToAll", .world_size = world_size}));
    backends.push_back(Backend({.name = "SendRecv", .world_size = world_size, .nccl = {.all_to_all = false}}));
  }
  backends.push_back(Backend(
      {.name = "Delayed", .world_size = 3, .nccl = {.all_to_all = false}, .delay_seed = 7, .landing_buckets = 2}));
  return backends;
}

INSTANTIATE_TEST_SUITE_P(Nccl, CommunicatorContract, testing::ValuesIn(Backends()), BackendName);
INSTANTIATE_TEST_SUITE_P(Nccl, JoiningContract, testing::ValuesIn(Backends()), BackendName);

}  // namespace
}  // namespace shardstep
