// No wait is missing on the streams of staged communicators, and none is superfluous.

#include <set>
#include <string>

#include "shardstep/tests/comm/signalling_communicator.h"
#include "shardstep/tests/comm/staged_trainer.h"

namespace shardstep {
namespace {

constexpr absl::Duration kLong = absl::Minutes(5);

/// Two ranks train, with everything recorded. There are more landing slots than buckets, so that no release of a slot
/// stands in for another wait. Waits are named by the call that makes them.
void Record(StagedMachine& machine) {
  RecordedSignals signals(machine.cuda);
  machine.Run([&](Rendezvous& rendezvous) {
    auto inner = CreateInprocInner(rendezvous, kLong);
    ASSERT_TRUE(inner.ok()) << inner.status();
    auto communicator =
        machine.CreateAround(rendezvous, std::make_unique<SignallingCommunicator>(*std::move(inner), signals),
                             /*landing_buckets=*/4);
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    // Weights lie in reverse order, as in ContractBuckets.
    const BucketExtent buckets[] = {{.shard_elements = 64, .weight_begin_byte = 256},
                                    {.shard_elements = 32, .gradient_begin_byte = 256, .weight_begin_byte = 128},
                                    {.shard_elements = 32, .gradient_begin_byte = 384}};
    const ContractLoad load{.buckets = {std::begin(buckets), std::end(buckets)}, .micro_steps = 2};
    ASSERT_TRUE((*communicator)->Allocate({.buckets = buckets}).ok());
    StagedTrainer trainer(machine, **communicator, load);
    // What creation did is over, on every rank.
    ASSERT_TRUE(rendezvous.AllGatherBytes("made", "", kLong).ok());
    if (rendezvous.rank() == 0) machine.cuda.HostsMeet();
    ASSERT_TRUE(rendezvous.AllGatherBytes("begin", "", kLong).ok());
    for (int64_t step = 0; step < 3; ++step) {
      ASSERT_TRUE(trainer.Step(step).ok());
    }
    const absl::Status status = trainer.Finish();
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_TRUE(rendezvous.AllGatherBytes("done", "", kLong).ok());
    if (rendezvous.rank() == 0) machine.cuda.HostsMeet();
    ASSERT_TRUE(rendezvous.AllGatherBytes("end", "", kLong).ok());
  });
}

bool IsOfCommunicator(const std::string& wait) {
  return wait.rfind("first ", 0) != 0 && wait.rfind("trainer ", 0) != 0;
}

TEST(StagedScheduleTest, NothingRacesAndEveryWaitIsNeeded) {
  StagedMachine machine(2, CreateInprocInner, {.record = true});
  Record(machine);
  EXPECT_GT(machine.cuda.access_count(), 100);
  EXPECT_THAT(machine.cuda.Problems(), testing::IsEmpty());
  std::set<std::string> caught;
  std::set<std::string> missed;
  for (const std::string& wait : machine.cuda.waits()) {
    if (!IsOfCommunicator(wait)) continue;
    (machine.cuda.Problems({wait}).empty() ? missed : caught).insert(wait);
  }
  EXPECT_THAT(caught, testing::ElementsAre("AllReduceSmall wait 0", "AllReduceSmall wait 1", "AwaitPublished wait 0",
                                           "AwaitReleased wait 0", "AwaitSlices wait 0", "Exchange wait 0",
                                           "Exchange wait 1", "Exchange wait 2", "Publish wait 0"));
  // It keeps inner's calls in order, Publish and then AwaitPublished; by chance what these wait for orders the memory.
  EXPECT_THAT(missed, testing::ElementsAre("Publish wait 1"));
}

}  // namespace
}  // namespace shardstep
