// A model that its trainer carries from one job to another by ReadState, SetState and counters.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/runtime/sharded_optimizer.h"
#include "shardstep/tests/comm/rank_threads.h"
#include "training_job.h"

namespace shardstep {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

/// All that there is of a model, in the hands of a trainer.
struct CarriedState {
  std::map<std::string, std::map<StateKind, std::vector<float>>> arrays;
  StepCounters counters;
  std::vector<int64_t> begins;
  OptimizerDigests digests;
};

CarriedState Read(ShardedOptimizer& optimizer) {
  CarriedState state;
  for (int p = 0; p < optimizer.layout().parameter_count(); ++p) {
    const std::string& name = optimizer.layout().parameter(p).name;
    for (const StateKind kind : kStateKinds) state.arrays[name][kind] = optimizer.ReadState(name, kind).value();
    state.begins.push_back(optimizer.begin_applied_step(p));
  }
  state.counters = optimizer.counters();
  state.digests = optimizer.Digests().value();
  return state;
}

void Write(const CarriedState& state, ShardedOptimizer& optimizer) {
  for (const auto& [name, arrays] : state.arrays) {
    for (const auto& [kind, values] : arrays) {
      const absl::Status set = optimizer.SetState(name, kind, values);
      ASSERT_TRUE(set.ok()) << set;
    }
  }
  ASSERT_TRUE(optimizer.SetCounters(state.counters, state.begins).ok());
}

std::unique_ptr<ShardedOptimizer> Make(const TrainingJob& job, Rendezvous& rendezvous) {
  OptimizerOptions options = job.options;
  options.micro_steps = job.micro_steps();
  auto optimizer =
      ShardedOptimizer::Create(options, job.parameters, CreateInprocCommunicator(rendezvous, {}).value(), &rendezvous);
  EXPECT_TRUE(optimizer.ok()) << optimizer.status();
  EXPECT_TRUE((*optimizer)
                  ->Initialize([&job](int p, int64_t begin, absl::Span<float> values) {
                    for (size_t i = 0; i < values.size(); ++i) {
                      values[i] = job.initial_value(p, begin + static_cast<int64_t>(i));
                    }
                  })
                  .ok());
  return *std::move(optimizer);
}

TrainingJob JobOf(Master master) {
  TrainingJob job;
  job.max_norm = 0.5;
  job.options.bucket_bytes = 1;
  job.options.groups[0].master = master;
  return job;
}

class CarriedStateTest : public ::testing::TestWithParam<Master> {};

// Trained at one world size, carried to another and trained on: the bits of a run that never stopped.
TEST_P(CarriedStateTest, GoesOnAtAnotherWorldSize) {
  TrainingJob job = JobOf(GetParam());
  std::vector<CarriedState> whole(4), half(4);
  job.world_size = 2;
  RunRankThreads(2, [&](Rendezvous& rendezvous) {
    const auto optimizer = Make(job, rendezvous);
    std::vector<StepRecord> records;
    const size_t rank = static_cast<size_t>(rendezvous.rank());
    Train(job, *optimizer, 0, 3, &records);
    half[rank] = Read(*optimizer);
    Train(job, *optimizer, 3, 3, &records);
    whole[rank] = Read(*optimizer);
  });
  EXPECT_EQ(half[0].arrays, half[1].arrays);
  ASSERT_EQ(half[0].counters.step, 3);
  job.world_size = 3;
  RunRankThreads(3, [&](Rendezvous& rendezvous) {
    const auto optimizer = Make(job, rendezvous);
    Write(half[0], *optimizer);
    EXPECT_EQ(optimizer->Digests().value(), half[0].digests);
    std::vector<StepRecord> records;
    Train(job, *optimizer, 3, 3, &records);
    EXPECT_EQ(records.back().applied_steps, 6);
    EXPECT_EQ(optimizer->Digests().value(), whole[0].digests);
    EXPECT_EQ(optimizer->counters(), whole[0].counters);
  });
}

INSTANTIATE_TEST_SUITE_P(Masters, CarriedStateTest, ::testing::Values(Master::kFp32, Master::kSplit, Master::kNone),
                         [](const auto& tested) { return std::string(Name(tested.param)); });

// The bias corrections of a parameter that was thawed count from its thaw, and so they do where it is carried to.
TEST(CarriedState, KeepsWhenAParametersStateBegan) {
  TrainingJob job = JobOf(Master::kFp32);
  const std::string name = job.parameters[0].name;
  const std::vector<std::string> names = {name};
  job.parameters[0].frozen = true;
  RunRankThreads(1, [&](Rendezvous& rendezvous) {
    const auto optimizer = Make(job, rendezvous);
    EXPECT_THAT(optimizer->ReadState(name, StateKind::kFirstMoment).value(), IsEmpty());
    EXPECT_THAT(optimizer->ReadState(name, StateKind::kMaster).value(), SizeIs(optimizer->layout().elements(0)));
    const std::vector<float> ones(static_cast<size_t>(optimizer->layout().elements(0)), 1.0f);
    EXPECT_THAT(std::string(optimizer->SetState(name, StateKind::kFirstMoment, ones).message()),
                HasSubstr("0 elements of its first_moment"));
    std::vector<StepRecord> records;
    job.unused = [](int64_t, int64_t, int p) { return p == 0; };
    Train(job, *optimizer, 0, 2, &records);
    ASSERT_TRUE(optimizer->SetFrozen(names, false).ok());
    job.unused = nullptr;
    Train(job, *optimizer, 2, 1, &records);
    const CarriedState state = Read(*optimizer);
    EXPECT_EQ(state.begins[0], 2);
    Train(job, *optimizer, 3, 1, &records);
    const OptimizerDigests expected = optimizer->Digests().value();

    TrainingJob thawed = job;
    thawed.parameters[0].frozen = false;
    const auto other = Make(thawed, rendezvous);
    Write(state, *other);
    Train(thawed, *other, 3, 1, &records);
    EXPECT_EQ(other->Digests().value(), expected);
  });
}

TEST(CarriedState, RefusesWhatRanksDoNotAgreeOnAndWritesNothing) {
  TrainingJob job = JobOf(Master::kFp32);
  job.world_size = 2;
  RunRankThreads(2, [&](Rendezvous& rendezvous) {
    const auto optimizer = Make(job, rendezvous);
    const std::string& name = job.parameters[0].name;
    const OptimizerDigests before = optimizer->Digests().value();
    std::vector<float> values(static_cast<size_t>(optimizer->layout().elements(0)), 2.0f);
    values.back() += static_cast<float>(rendezvous.rank());
    const auto message = [](const absl::Status& status) { return std::string(status.message()); };
    EXPECT_THAT(message(optimizer->SetState(name, StateKind::kSecondMoment, values)), HasSubstr("ranks 0 and 1"));
    EXPECT_THAT(message(optimizer->SetState("none", StateKind::kMaster, values)), HasSubstr("\"none\""));
    values.pop_back();
    EXPECT_THAT(message(optimizer->SetState(name, StateKind::kMaster, values)), HasSubstr("elements of its master"));
    EXPECT_THAT(message(optimizer->SetCounters({.step = 5 + rendezvous.rank(), .applied_steps = 5}, {})),
                HasSubstr("ranks 0 and 1"));
    EXPECT_THAT(message(optimizer->SetCounters({.step = 5, .applied_steps = 6}, {})), HasSubstr("applied_steps = 6"));
    EXPECT_THAT(message(optimizer->SetCounters({.step = 5}, std::vector<int64_t>(1))),
                HasSubstr("begin_applied_steps"));
    EXPECT_THAT(message(optimizer->SetCounters({.step = int64_t{1} << 60}, {})),
                HasSubstr("step = 1152921504606846976"));
    EXPECT_EQ(optimizer->Load(::testing::TempDir() + "/no_such_checkpoint", nullptr).status().code(),
              absl::StatusCode::kNotFound);
    EXPECT_EQ(optimizer->Digests().value(), before);
    EXPECT_EQ(optimizer->counters(), StepCounters{});
    EXPECT_EQ(optimizer->ReadState(name, StateKind::kMaster).status(), absl::OkStatus());
  });
}

}  // namespace
}  // namespace shardstep
