// The production scheduler and plan, run against recorders: every access of every rank must be ordered, and every wait
// must be needed (S4).
#include "shardstep/runtime/step_scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "step_recorder.h"

namespace shardstep {
namespace {

using ::testing::IsEmpty;

struct Case {
  std::string name;
  int world_size;
  int64_t micro_steps;
  bool look;
  CommunicatorTraits traits;
};

const CommunicatorTraits kShared;
const CommunicatorTraits kTransient{.slices_persist = false, .landing_buckets = 2, .separate_exchange_stream = true};

// One rank of a recorded job and the trainer that drives it.
class RecordedRank {
 public:
  RecordedRank(const OptimizerOptions& options, const ShardLayout& layout, Recording* recording, RecorderWorld* world,
               int rank)
      : layout_(layout),
        caller_(recording, 3 * rank, "caller"),
        exchange_(recording, 3 * rank + 1, "exchange"),
        update_(recording, 3 * rank + 2, "update") {
    std::vector<BucketExtent> extents;
    for (int b = 0; b < layout.bucket_count(); ++b) {
      extents.push_back({layout.bucket_begin_element(b), layout.shard_elements(b)});
    }
    communicator_ = std::make_unique<RecorderCommunicator>(recording, world, rank, extents);
    state_ = *ShardState::Create(layout, true);
    scheduler_ = std::make_unique<StepScheduler>(StepResources{.options = &options,
                                                               .layout = &layout,
                                                               .state = &state_,
                                                               .communicator = communicator_.get(),
                                                               .kernels = &kernels_,
                                                               .caller = &caller_,
                                                               .exchange = &exchange_,
                                                               .update = &update_});
  }

  // A forward reads every weight, then backward overwrites every gradient, last parameter first.
  void MicroStep() {
    ReadWeights();
    WriteGradients();
  }

  // All that the contract allows without weights: a rank may write gradients that need none.
  void WriteGradients(bool first_parameter_first = false) {
    const int count = layout_.parameter_count();
    for (int i = 0; i < count; ++i) {
      const int p = first_parameter_first ? i : count - 1 - i;
      ASSERT_TRUE(scheduler_->GradientWritable(p).ok());
      caller_.Append(absl::StrCat("backward of ", p), {Access(communicator_->gradients(), p, true)});
      ASSERT_TRUE(scheduler_->GradientReady(p).ok());
    }
    ASSERT_TRUE(scheduler_->EndMicroStep().ok());
  }

  // Allowed until the next Step.
  void ReadWeights() {
    for (int p = 0; p < layout_.parameter_count(); ++p) {
      ASSERT_TRUE(scheduler_->WeightsReady(p).ok());
      caller_.Append(absl::StrCat("forward of ", p), {Access(communicator_->weights(), p, false)});
    }
  }

  // A rank that has no micro-batch left.
  void MicroStepWithoutData() { ASSERT_TRUE(scheduler_->EndMicroStep().ok()); }

  void Step() {
    ASSERT_TRUE(scheduler_->Step({.learning_rate = 0.1}).ok());
    ASSERT_TRUE(scheduler_->FinishStep().ok());
  }

  const RecorderCommunicator& communicator() const { return *communicator_; }

 private:
  MemoryAccess Access(BufferView arena, int p, bool write) const {
    return {arena.as<Bf16>() + layout_.arena_begin_element(p), layout_.elements(p) * static_cast<int64_t>(sizeof(Bf16)),
            write};
  }

  const ShardLayout& layout_;
  RecorderStream caller_, exchange_, update_;
  RecorderKernels kernels_;
  std::unique_ptr<RecorderCommunicator> communicator_;
  ShardState state_;
  std::unique_ptr<StepScheduler> scheduler_;
};

ShardLayout ThreeBuckets(int world_size) {
  std::vector<ParameterSpec> parameters;
  for (int p = 0; p < 3; ++p) parameters.push_back({.name = absl::StrCat("p", p), .shape = {1024 * world_size}});
  return *ShardLayout::Create(parameters, 1024 * world_size * 2, world_size);
}

// Four steps. In the second the last rank runs out of data; in the third and fourth it reads no weights before its
// backward, which goes in either order.
Recording Record(const Case& c, const std::set<std::string>& deleted) {
  OptimizerOptions options;
  options.micro_steps = c.micro_steps;
  options.non_finite = c.look ? NonFinitePolicy::kSkip : NonFinitePolicy::kIgnore;
  const ShardLayout layout = ThreeBuckets(c.world_size);
  EXPECT_EQ(layout.bucket_count(), 3);
  Recording recording(deleted);
  RecorderWorld world(c.world_size, layout.arena_elements(), c.traits, c.micro_steps);
  std::vector<std::unique_ptr<RecordedRank>> ranks;
  for (int r = 0; r < c.world_size; ++r) {
    ranks.push_back(std::make_unique<RecordedRank>(options, layout, &recording, &world, r));
  }
  for (int step = 0; step < 4; ++step) {
    for (int r = 0; r < c.world_size; ++r) {
      const bool last_rank = r == c.world_size - 1;
      for (int64_t k = 0; k < c.micro_steps; ++k) {
        if (step == 1 && last_rank && c.world_size > 1) {
          ranks[r]->MicroStepWithoutData();
        } else if (step >= 2 && last_rank) {
          ranks[r]->WriteGradients(/*first_parameter_first=*/step == 2);
        } else {
          ranks[r]->MicroStep();
        }
      }
      if (step < 2) ranks[r]->ReadWeights();
      ranks[r]->Step();
    }
  }
  if (c.world_size == 1) {
    EXPECT_TRUE(ranks[0]->communicator().operations().empty());  // L4
  }
  return recording;
}

class RecordedSchedule : public ::testing::TestWithParam<Case> {};

TEST_P(RecordedSchedule, OrdersEveryAccess) {
  const Recording recording = Record(GetParam(), {});
  EXPECT_THAT(recording.Problems(), IsEmpty());
  EXPECT_GT(recording.access_count(), 20);
}

// S4: without any one wait there is a race, so every wait is needed and the check sees it.
TEST_P(RecordedSchedule, S4EveryWaitIsNeeded) {
  const std::set<std::string> keys = Record(GetParam(), {}).keys();
  EXPECT_GE(keys.size(), 3u);
  for (const std::string& key : keys) {
    EXPECT_FALSE(Record(GetParam(), {key}).Problems().empty()) << "redundant: " << key;
  }
  std::cout << keys.size() << " waits deleted in turn, each caught\n";
}

// S5: a step of K micro-steps exchanges every bucket K times, decides once and publishes every bucket once.
TEST(Schedule, S5CountsEveryOperation) {
  for (const int64_t micro_steps : {1, 2, 5}) {
    OptimizerOptions options;
    options.micro_steps = micro_steps;
    const ShardLayout layout = ThreeBuckets(2);
    Recording recording;
    RecorderWorld world(2, layout.arena_elements(), kShared, micro_steps);
    RecordedRank rank(options, layout, &recording, &world, 0);
    for (int step = 0; step < 2; ++step) {
      for (int64_t k = 0; k < micro_steps; ++k) rank.MicroStep();
      rank.Step();
    }
    const std::map<std::string, int64_t> expected = {{"Exchange", 2 * 3 * micro_steps},
                                                     {"AwaitSlices", 2 * 3 * micro_steps},
                                                     {"Release", 2 * 3 * micro_steps},
                                                     {"AwaitReleased", 3 * (2 * micro_steps - 1)},
                                                     {"AllReduceSmall", 2},
                                                     {"Publish", 2 * 3},
                                                     {"AwaitPublished", 3}};
    EXPECT_EQ(rank.communicator().operations(), expected);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Plans, RecordedSchedule,
    ::testing::Values(Case{"OneRank", 1, 1, true, kShared}, Case{"OneRankTwoMicroSteps", 1, 2, true, kShared},
                      Case{"OneRankOnePass", 1, 1, false, kShared}, Case{"TwoPasses", 2, 1, true, kShared},
                      Case{"OnePass", 2, 1, false, kShared}, Case{"MicroSteps", 2, 3, true, kShared},
                      Case{"MicroStepsOnePass", 3, 2, false, kShared}, Case{"SumKept", 5, 1, true, kShared},
                      Case{"Transient", 2, 1, true, kTransient}, Case{"TransientMicroSteps", 3, 2, true, kTransient},
                      Case{"TransientOnePass", 2, 2, false, kTransient}),
    [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace shardstep
