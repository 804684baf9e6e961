// The production scheduler and plan, run against recorders: every access of every rank must be ordered, and every wait
// must be needed (S4).
#include "shardstep/runtime/step_scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shardstep/runtime/bucket_extents.h"
#include "step_recorder.h"

namespace shardstep {
namespace {

using ::testing::IsEmpty;

const CommunicatorTraits kShared;
const CommunicatorTraits kTransient{.slices_persist = false, .landing_buckets = 2, .separate_exchange_stream = true};

struct Case {
  std::string name;
  int world_size = 1;
  int64_t micro_steps = 1;
  CommunicatorTraits traits = kShared;
  int hosts = 1;  ///< more than one: two levels
  std::function<void(OptimizerOptions&)> change = nullptr;
  bool joins = false;  ///< decides with others
  bool traced = false;
};

// Hears everything and keeps nothing.
class IgnoredTrace : public StepTrace {
 public:
  void Add(const TraceSpan&) override { ++spans; }
  int spans = 0;
};

// Others that find what this optimizer finds.
class RecordedOthers : public OtherOptimizers {
 public:
  explicit RecordedOthers(const ShardLayout* layout) : layout_(layout) {}
  void StepCalled() override { ++steps_called; }
  absl::StatusOr<Findings> Join(const DecisionInput&, const SmallReduction& own) override {
    ++joined;
    return Find(own, *layout_);
  }
  void Abort(const absl::Status&) override {}
  void SetAway(absl::Duration) override {}
  void Leave() override {}
  int steps_called = 0;
  int joined = 0;

 private:
  const ShardLayout* layout_;
};

HostMap Hosts(int hosts, int ranks_per_host, int rank) {
  HostMap map{.host = rank / ranks_per_host, .local_rank = rank % ranks_per_host};
  for (int r = 0; r < hosts * ranks_per_host; ++r) {
    if (r % ranks_per_host == 0) map.hosts.emplace_back();
    map.hosts.back().push_back(r);
  }
  return map;
}

// What all ranks of a recorded job have in common: the layout, and the groups of its communicators.
class RecordedJob {
 public:
  RecordedJob(const Case& c, Recording* recording) : case_(c), recording_(recording) {
    options_.micro_steps = c.micro_steps;
    if (c.change) c.change(options_);
    local_sums_ = options_.accumulation == Accumulation::kLocal && c.world_size > 1;
    std::vector<ParameterSpec> parameters;
    for (int p = 0; p < 3; ++p) parameters.push_back({.name = absl::StrCat("p", p), .shape = {1024 * c.world_size}});
    LayoutOptions layout_options{.bucket_bytes = 1024 * c.world_size * 2, .world_size = c.world_size};
    layout_options.groups = {options_.groups[0].kind()};
    if (c.hosts > 1) layout_options.ranks_by_position = Hosts(c.hosts, c.world_size / c.hosts, 0).RanksByPosition();
    layout_ = std::make_unique<ShardLayout>(*ShardLayout::Create(parameters, layout_options));
    EXPECT_EQ(layout_->bucket_count(), 3);
    MakeGroups();
  }

  RecordedJob(const RecordedJob&) = delete;
  RecordedJob& operator=(const RecordedJob&) = delete;

  HostMap map(int rank) const {
    return case_.hosts > 1 ? Hosts(case_.hosts, case_.world_size / case_.hosts, rank) : HostMap();
  }
  std::unique_ptr<RecorderCommunicator> MakeHost(int rank) {
    const HostMap hosts = map(rank);
    RecorderGroup* group = host_groups_[case_.hosts > 1 ? hosts.host : 0].get();
    return std::make_unique<RecorderCommunicator>(recording_, group, case_.hosts > 1 ? hosts.local_rank : rank,
                                                  HostExtents(*layout_, hosts, local_sums_));
  }
  std::unique_ptr<RecorderCommunicator> MakeNetwork(int rank) {
    if (case_.hosts == 1) return nullptr;
    const HostMap hosts = map(rank);
    return std::make_unique<RecorderCommunicator>(recording_, rail_groups_[hosts.local_rank].get(), hosts.host,
                                                  NetworkExtents(*layout_, hosts),
                                                  PlanContributions(hosts, options_).count());
  }

  const Case& job_case() const { return case_; }
  const OptimizerOptions& options() const { return options_; }
  const ShardLayout& layout() const { return *layout_; }
  bool local_sums() const { return local_sums_; }
  Recording* recording() { return recording_; }

 private:
  void MakeGroups() {
    const int local = case_.world_size / case_.hosts;
    const int64_t exchanges = local_sums_ ? 1 : case_.micro_steps;
    const int64_t gradient_bytes = layout_->gradient_arena_bytes() * (local_sums_ ? 2 : 1);
    const bool copies = !case_.traits.slices_persist || options_.weights == WeightCopies::kPrivate;
    for (int h = 0; h < case_.hosts; ++h) {
      host_groups_.push_back(std::make_unique<RecorderGroup>(absl::StrCat("host ", h), local, case_.traits, exchanges));
      host_groups_.back()->MakeArenas(gradient_bytes, layout_->weight_arena_bytes(), copies);
    }
    for (int l = 0; case_.hosts > 1 && l < local; ++l) {
      rail_groups_.push_back(
          std::make_unique<RecorderGroup>(absl::StrCat("rail ", l), case_.hosts, kTransient, exchanges));
      for (const auto& host : host_groups_) rail_groups_.back()->weights.push_back(host->weights[0]);
    }
  }

  const Case case_;
  Recording* recording_;
  OptimizerOptions options_;
  bool local_sums_ = false;
  std::unique_ptr<ShardLayout> layout_;
  std::vector<std::unique_ptr<RecorderGroup>> host_groups_, rail_groups_;
};

// One rank of a recorded job and the trainer that drives it.
class RecordedRank {
 public:
  RecordedRank(RecordedJob* job, int rank)
      : layout_(job->layout()),
        groups_(job->options().groups, &layout_),
        map_(job->map(rank)),
        caller_(job->recording(), 3 * rank, "caller"),
        exchange_(job->recording(), 3 * rank + 1, "exchange"),
        update_(job->recording(), 3 * rank + 2, "update"),
        others_(&layout_),
        host_(job->MakeHost(rank)),
        network_(job->MakeNetwork(rank)),
        words_(*StepMemory::Create(HostMemory())),
        state_(*ShardState::Create(layout_, {.accumulator = true, .group_accumulator = true})) {
    if (job->local_sums()) own_gradients_.resize(layout_.gradient_arena_bytes());
    if (network_ != nullptr) {
      host_sums_.resize(
          HostSumBytes(layout_, map_, PlanContributions(map_, job->options()), network_->traits().landing_buckets));
    }
    gradients_ = job->local_sums() ? View(own_gradients_) : host_->gradients();
    scheduler_ = std::make_unique<StepScheduler>(StepResources{.options = &job->options(),
                                                               .groups = &groups_,
                                                               .layout = &layout_,
                                                               .state = &state_,
                                                               .rank = rank,
                                                               .host = host_.get(),
                                                               .network = network_.get(),
                                                               .map = &map_,
                                                               .kernels = &kernels_,
                                                               .device = device_.get(),
                                                               .words = &words_,
                                                               .caller = &caller_,
                                                               .exchange = &exchange_,
                                                               .update = &update_,
                                                               .gradients = gradients_,
                                                               .host_sums = View(host_sums_)});
    EXPECT_TRUE(scheduler_->TakeOverGroups().ok());
    if (job->job_case().traced) scheduler_->SetTrace(&trace_);
    if (job->job_case().joins) {
      EXPECT_TRUE(scheduler_->DecideWith(&others_).ok());
    }
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
      caller_.Append(absl::StrCat("backward of ", p), {{gradients_.data + layout_.gradient_begin_byte(p),
                                                        layout_.elements(p) * int64_t{sizeof(Bf16)}, true}});
      ASSERT_TRUE(scheduler_->GradientReady(p).ok());
    }
    ASSERT_TRUE(scheduler_->EndMicroStep().ok());
  }

  // Allowed until the next Step.
  void ReadWeights() {
    for (int p = 0; p < layout_.parameter_count(); ++p) {
      ASSERT_TRUE(scheduler_->WeightsReady(p).ok());
      caller_.Append(absl::StrCat("forward of ", p), {{host_->weights().data + layout_.weight_begin_byte(p),
                                                       layout_.elements(p) * int64_t{sizeof(Bf16)}, false}});
    }
  }

  // A rank that has no micro-batch left.
  void MicroStepWithoutData() { ASSERT_TRUE(scheduler_->EndMicroStep().ok()); }

  void Step() {
    ASSERT_TRUE(scheduler_->Step({.learning_rate = 0.1}).ok());
    ASSERT_TRUE(scheduler_->FinishStep().ok());
  }

  const RecorderCommunicator& host() const { return *host_; }
  const RecordedOthers& others() const { return others_; }
  const IgnoredTrace& trace() const { return trace_; }

 private:
  static BufferView View(std::vector<std::byte>& bytes) { return {bytes.data(), static_cast<int64_t>(bytes.size())}; }

  const ShardLayout& layout_;
  ParameterGroups groups_;
  const HostMap map_;
  RecorderStream caller_, exchange_, update_;
  RecorderKernels kernels_;
  RecordedOthers others_;
  IgnoredTrace trace_;
  std::unique_ptr<RecorderCommunicator> host_, network_;
  const std::unique_ptr<ComputeDevice> device_ = CreateHostDevice();
  StepMemory words_;
  ShardState state_;
  std::vector<std::byte> own_gradients_, host_sums_;
  BufferView gradients_;
  std::unique_ptr<StepScheduler> scheduler_;
};

// Four steps. In the second the last rank runs out of data; in the third and fourth it reads no weights before its
// backward, which goes in either order.
void Record(const Case& c, Recording* recording) {
  RecordedJob job(c, recording);
  std::vector<std::unique_ptr<RecordedRank>> ranks;
  for (int r = 0; r < c.world_size; ++r) ranks.push_back(std::make_unique<RecordedRank>(&job, r));
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
  EXPECT_EQ(ranks[0]->trace().spans > 0, c.traced);
  EXPECT_EQ(ranks[0]->others().steps_called, c.joins ? 4 : 0);
  EXPECT_EQ(ranks[0]->others().joined, c.joins ? 4 : 0);
  if (c.world_size == 1) {
    EXPECT_TRUE(ranks[0]->host().operations().empty());  // L4
  }
  EXPECT_GT(recording->access_count(), 20);
}

// Everything must be looked at before the memory it is about is freed, and reused.
std::vector<std::string> ProblemsWithout(const Case& c, std::set<std::string> deleted, std::set<std::string>* keys) {
  Recording recording(std::move(deleted));
  Record(c, &recording);
  if (keys != nullptr) *keys = recording.keys();
  return recording.Problems();
}

class RecordedSchedule : public ::testing::TestWithParam<Case> {};

TEST_P(RecordedSchedule, OrdersEveryAccess) { EXPECT_THAT(ProblemsWithout(GetParam(), {}, nullptr), IsEmpty()); }

TEST_P(RecordedSchedule, OrdersEveryAccessWhileTraced) {
  Case traced = GetParam();
  traced.traced = true;
  EXPECT_THAT(ProblemsWithout(traced, {}, nullptr), IsEmpty());
}

// S4: without any one wait there is a race, so every wait is needed and the check sees it.
TEST_P(RecordedSchedule, S4EveryWaitIsNeeded) {
  std::set<std::string> keys;
  ProblemsWithout(GetParam(), {}, &keys);
  EXPECT_GE(keys.size(), 3u);
  for (const std::string& key : keys) {
    EXPECT_FALSE(ProblemsWithout(GetParam(), {key}, nullptr).empty()) << "redundant: " << key;
  }
  std::cout << keys.size() << " waits deleted in turn, each caught\n";
}

// S5: a step of K micro-steps exchanges every bucket K times, decides once and publishes every bucket once.
TEST(Schedule, S5CountsEveryOperation) {
  for (const int64_t micro_steps : {1, 2, 5}) {
    Recording recording;
    RecordedJob job({.name = "", .world_size = 2, .micro_steps = micro_steps}, &recording);
    RecordedRank rank(&job, 0);
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
    EXPECT_EQ(rank.host().operations(), expected);
  }
}

void OnePass(OptimizerOptions& options) { options.non_finite = NonFinitePolicy::kIgnore; }
void Private(OptimizerOptions& options) { options.weights = WeightCopies::kPrivate; }
void Local(OptimizerOptions& options) { options.accumulation = Accumulation::kLocal; }
void LocalOnePass(OptimizerOptions& options) {
  Local(options);
  OnePass(options);
}
void Groups(OptimizerOptions& options) { options.sum_group = 2; }
void GroupsOfThree(OptimizerOptions& options) { options.sum_group = 3; }
void GroupsOfThreeOnePass(OptimizerOptions& options) {
  GroupsOfThree(options);
  OnePass(options);
}
void Rounded(OptimizerOptions& options) { options.host_sum = HostSum::kRounded; }
void Split(OptimizerOptions& options) { options.groups[0].master = Master::kSplit; }

const Case kOneHost[] = {
    {.name = "OneRank"},
    {.name = "OneRankTwoMicroSteps", .micro_steps = 2},
    {.name = "OneRankOnePass", .change = OnePass},
    {.name = "TwoPasses", .world_size = 2},
    {.name = "OnePass", .world_size = 2, .change = OnePass},
    {.name = "MicroSteps", .world_size = 2, .micro_steps = 3},
    {.name = "MicroStepsOnePass", .world_size = 3, .micro_steps = 2, .change = OnePass},
    {.name = "SumKept", .world_size = 5},
    {.name = "StraddlingGroups", .world_size = 2, .micro_steps = 3, .change = GroupsOfThree},
    {.name = "StraddlingGroupsOnePass", .world_size = 2, .micro_steps = 3, .change = GroupsOfThreeOnePass},
    {.name = "SplitMaster", .world_size = 2, .change = Split},
    {.name = "PrivateWeights", .world_size = 2, .change = Private},
    {.name = "PrivateWeightsMicroSteps", .world_size = 3, .micro_steps = 2, .change = Private},
    {.name = "LocalSums", .world_size = 2, .micro_steps = 2, .change = Local},
    {.name = "LocalSumsOneMicroStep", .world_size = 3, .change = Local},
    {.name = "LocalSumsOnePass", .world_size = 2, .micro_steps = 2, .change = LocalOnePass},
    {.name = "Joined", .world_size = 2, .micro_steps = 2, .joins = true},
    {.name = "JoinedOneRank", .joins = true},
};
const Case kSeveralHosts[] = {
    {.name = "Transient", .world_size = 2, .traits = kTransient},
    {.name = "TransientMicroSteps", .world_size = 3, .micro_steps = 2, .traits = kTransient},
    {.name = "TransientOnePass", .world_size = 2, .micro_steps = 2, .traits = kTransient, .change = OnePass},
    {.name = "TransientLocalSums", .world_size = 2, .micro_steps = 2, .traits = kTransient, .change = Local},
    {.name = "TwoHosts", .world_size = 4, .hosts = 2},
    {.name = "TwoHostsMicroSteps", .world_size = 4, .micro_steps = 2, .hosts = 2},
    {.name = "TwoHostsOnePass", .world_size = 4, .hosts = 2, .change = OnePass},
    {.name = "TwoHostsGroups", .world_size = 4, .micro_steps = 2, .hosts = 2, .change = Groups},
    {.name = "TwoHostsRounded", .world_size = 4, .hosts = 2, .change = Rounded},
    {.name = "TwoHostsLocalSums", .world_size = 4, .micro_steps = 2, .hosts = 2, .change = Local},
};
INSTANTIATE_TEST_SUITE_P(OneHost, RecordedSchedule, ::testing::ValuesIn(kOneHost),
                         [](const auto& test) { return test.param.name; });
INSTANTIATE_TEST_SUITE_P(SeveralHosts, RecordedSchedule, ::testing::ValuesIn(kSeveralHosts),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace shardstep
