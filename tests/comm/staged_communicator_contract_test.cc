// The contract of every communicator, for arrays of the fake GPU over communicators of the host.

#include "shardstep/tests/comm/joining_contract.h"
#include "shardstep/tests/comm/staged_machine.h"
#include "shardstep/tests/cuda/cuda_contract_device.h"

namespace shardstep {
namespace {

struct Variant {
  std::string name;
  CreateInner create_inner;
  int world_size = 1;
  FakeCudaOptions cuda;
  int landing_buckets = 3;
};

ContractBackend Backend(const Variant& variant) {
  const auto machine = std::make_shared<std::unique_ptr<StagedMachine>>();
  return {.name = absl::StrCat(variant.name, variant.world_size),
          .run =
              [=](const std::function<void(Rendezvous&)>& body) {
                *machine = std::make_unique<StagedMachine>(variant.world_size, variant.create_inner, variant.cuda);
                (*machine)->Run(body);
                (*machine)->ExpectClean();
                machine->reset();
              },
          .create =
              [=](Rendezvous& rendezvous, absl::Duration wait_deadline) {
                return (*machine)->Create(rendezvous, wait_deadline, variant.landing_buckets);
              },
          .device =
              [=](int rank) {
                return std::make_unique<CudaContractDevice>((*machine)->cuda, (*machine)->device(rank),
                                                            (*machine)->memory(rank));
              }};
}

std::vector<ContractBackend> Inproc() {
  std::vector<ContractBackend> backends;
  for (const int ranks : {1, 2, 4}) {
    backends.push_back(Backend({.name = "OneGpu", .create_inner = CreateInprocInner, .world_size = ranks}));
  }
  backends.push_back(Backend({.name = "Gpus",
                              .create_inner = CreateInprocInner,
                              .world_size = 3,
                              .cuda = {.devices = 3, .delay_seed = 5},
                              .landing_buckets = 1}));
  return backends;
}

std::vector<ContractBackend> Landing() {
  std::vector<ContractBackend> backends;
  for (const int ranks : {1, 2, 4}) {
    backends.push_back(Backend({.name = "Network",
                                .create_inner = CreateLandingInner,
                                .world_size = ranks,
                                .cuda = {.devices = 2, .delay_seed = ranks == 4 ? 3u : 0u},
                                .landing_buckets = ranks == 4 ? 2 : 3}));
  }
  return backends;
}

INSTANTIATE_TEST_SUITE_P(StagedInproc, CommunicatorContract, testing::ValuesIn(Inproc()), BackendName);
INSTANTIATE_TEST_SUITE_P(StagedLanding, CommunicatorContract, testing::ValuesIn(Landing()), BackendName);
INSTANTIATE_TEST_SUITE_P(StagedLanding, JoiningContract, testing::ValuesIn(Landing()), BackendName);

}  // namespace
}  // namespace shardstep
