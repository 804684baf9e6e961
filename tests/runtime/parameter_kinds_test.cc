// Parameters that are not plain bf16 ones with AdamW: each kind gives the same bits on any ranks and hosts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/tests/comm/rank_threads.h"
#include "training_job.h"

namespace shardstep {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Topology {
  std::string name;
  int ranks;
  std::vector<int> host_of_rank;
};
const Topology kTopologies[] = {{"1", 1, {}}, {"2", 2, {}}, {"3", 3, {}}, {"8", 8, {}}, {"2x2", 4, {0, 0, 1, 1}}};

TrainingJob Job() {
  TrainingJob job;
  job.options.bucket_bytes = 1;
  job.max_norm = 0.5;
  return job;
}

// What all topologies end with; of each parameter its master, by name.
struct Outcome {
  TrainingResult result;
  std::map<std::string, std::vector<float>> masters;
};

Outcome RunOn(const Topology& topology, TrainingJob job) {
  job.world_size = topology.ranks;
  job.host_of_rank = topology.host_of_rank;
  Outcome outcome;
  job.after_steps = [&](ShardedOptimizer& optimizer) {
    std::map<std::string, std::vector<float>> masters;
    for (int p = 0; p < optimizer.layout().parameter_count(); ++p) {
      const std::string& name = optimizer.layout().parameter(p).name;
      const auto master = optimizer.ReadState(name, StateKind::kMaster);
      ASSERT_TRUE(master.ok()) << master.status();
      masters[name] = *master;
    }
    if (optimizer.rank() == 0) outcome.masters = masters;
  };
  outcome.result = RunTrainingJob(job);
  return outcome;
}

Outcome ExpectSameBits(const TrainingJob& job) {
  const Outcome alone = RunOn(kTopologies[0], job);
  for (const Topology& topology : kTopologies) {
    const Outcome outcome = RunOn(topology, job);
    EXPECT_EQ(outcome.result.digests, alone.result.digests) << topology.name;
    EXPECT_TRUE(outcome.result == alone.result) << topology.name << ": records differ";
    EXPECT_EQ(outcome.masters, alone.masters) << topology.name;
  }
  return alone;
}

// ---- Rules, masters, copies ----------------------------------------------------------------------------------------

TEST(ParameterKinds, EveryRuleAndMaster) {
  std::map<std::string, std::string> weights;
  const std::variant<AdamWOptions, SgdOptions, LionOptions> rules[] = {
      AdamWOptions{.weight_decay = 0.1}, SgdOptions{.weight_decay = 0.1}, SgdOptions{.momentum = 0.9},
      SgdOptions{.momentum = 0.9, .nesterov = true}, LionOptions{.weight_decay = 0.1}};
  const std::pair<Master, Rounding> masters[] = {{Master::kFp32, Rounding::kNearest},
                                                 {Master::kSplit, Rounding::kNearest},
                                                 {Master::kNone, Rounding::kNearest},
                                                 {Master::kNone, Rounding::kStochastic}};
  for (size_t r = 0; r < std::size(rules); ++r) {
    for (const auto& [master, rounding] : masters) {
      TrainingJob job = Job();
      job.steps = 3;
      job.options.groups = {{.rule = rules[r], .master = master, .rounding = rounding}};
      const std::string what = absl::StrCat("rule ", r, " ", Name(master), " ", Name(rounding));
      SCOPED_TRACE(what);
      const shardstep_reference::Digests digests = ExpectSameBits(job).result.digests;
      EXPECT_EQ(digests, RunReference(job).digests);
      weights[digests.weights + " " + absl::StrCat(r)] += what + "; ";
      job.options.weights = WeightCopies::kPrivate;
      EXPECT_EQ(RunOn(kTopologies[2], job).result.digests, RunOn(kTopologies[0], job).result.digests) << "private";
    }
  }
  // All of them differ in what they do to weights; an fp32 and a split master only where a tie is rounded.
  EXPECT_GE(weights.size(), std::size(rules) * 3);
}

TEST(ParameterKinds, SplitMasterHasTheBitsOfAnFp32One) {
  TrainingJob job = Job();
  const Outcome fp32 = RunOn(kTopologies[2], job);
  job.options.groups[0].master = Master::kSplit;
  EXPECT_EQ(RunOn(kTopologies[2], job).masters, fp32.masters);
}

TEST(ParameterKinds, GroupsMayHaveDifferentRulesAndMasters) {
  TrainingJob job = Job();
  job.options.groups = {{.rule = AdamWOptions()},
                        {.rule = SgdOptions{.momentum = 0.5}, .master = Master::kSplit},
                        {.rule = LionOptions(), .master = Master::kNone}};
  for (size_t p = 0; p < job.parameters.size(); ++p) job.parameters[p].group = static_cast<int>(p % 3);
  ExpectSameBits(job);
}

// ---- Dtypes --------------------------------------------------------------------------------------------------------

// M1: in one job as in jobs of their own.
TEST(ParameterKinds, M1Fp32BesideBf16) {
  TrainingJob job = Job();
  job.max_norm.reset();
  job.parameters[1].weight_dtype = job.parameters[1].gradient_dtype = DType::kFp32;
  job.parameters[2].weight_dtype = DType::kFp32;
  job.parameters[4].gradient_dtype = DType::kFp32;
  job.parameters[5].weight_dtype = job.parameters[5].gradient_dtype = DType::kFp32;
  const Outcome mixed = ExpectSameBits(job);
  // Gradients are bf16 values here, so masters are what they are with plain bf16 parameters.
  TrainingJob plain = Job();
  plain.max_norm.reset();
  EXPECT_EQ(mixed.masters, RunOn(kTopologies[1], plain).masters);
  job.max_norm = 0.5;
  ExpectSameBits(job);
}

TEST(ParameterKinds, Fp32GradientsKeepTheirBits) {
  TrainingJob job = Job();
  for (ParameterSpec& parameter : job.parameters) parameter.gradient_dtype = DType::kFp32;
  job.fp32_gradient = [](int64_t step, int64_t micro_batch, int p, int64_t element) {
    return ToFloat(TrainingJob::MixedGradient(step, micro_batch, p, element)) * 1.000321f;
  };
  const Outcome full = ExpectSameBits(job);
  job.fp32_gradient = nullptr;
  EXPECT_NE(RunOn(kTopologies[0], job).masters, full.masters);
}

TEST(ParameterKinds, M1Fp16IsRefusedByName) {
  std::vector<ParameterSpec> parameters = TrainingJob::MixedParameters();
  parameters[4].weight_dtype = DType::kFp16;
  const auto estimate = ShardedOptimizer::EstimateMemory({}, parameters, 2);
  EXPECT_THAT(std::string(estimate.status().message()), AllOf(HasSubstr("matrix"), HasSubstr("fp16")));
}

// ---- Frozen, tied, unused ------------------------------------------------------------------------------------------

float InitialWeight(int p, int64_t i) { return ToFloat(ToBf16(TrainingJob::InitialValue(p, i))); }

// M2: frozen from the start, and thawed later, when its own count of applied steps begins.
TEST(ParameterKinds, M2FrozenStaysAndThaws) {
  TrainingJob job = Job();
  job.max_norm.reset();
  job.parameters[4].frozen = true;
  const Outcome frozen = ExpectSameBits(job);
  for (size_t i = 0; i < frozen.masters.at("matrix").size(); ++i) {
    ASSERT_EQ(frozen.masters.at("matrix")[i], InitialWeight(4, static_cast<int64_t>(i)));
  }
  job.before_step = [](ShardedOptimizer& optimizer, int64_t step) {
    if (step != 2) return;
    const absl::Status thawed = optimizer.SetFrozen({"matrix"}, false);
    ASSERT_TRUE(thawed.ok()) << thawed;
  };
  const Outcome thawed = ExpectSameBits(job);
  // As a job that has only the last steps: the learning rates and gradients are those of the step.
  TrainingJob late = Job();
  late.max_norm.reset();
  late.first_step = 2;
  late.steps = 3;
  late.initial_value = InitialWeight;
  EXPECT_EQ(thawed.masters.at("matrix"), RunOn(kTopologies[0], late).masters.at("matrix"));
  EXPECT_NE(thawed.masters.at("head"), RunOn(kTopologies[0], late).masters.at("head"));
}

// M2: frozen and thawed again, together with others in its buckets; its moments are gone.
TEST(ParameterKinds, M2FreezeBetweenSteps) {
  for (const Master master : {Master::kFp32, Master::kSplit, Master::kNone}) {
    TrainingJob job = Job();
    job.options.bucket_bytes = 1 << 20;  // all in one bucket
    job.options.groups[0].master = master;
    job.before_step = [](ShardedOptimizer& optimizer, int64_t step) {
      if (step != 2 && step != 4) return;
      const std::vector<std::string> names =
          step == 2 ? std::vector<std::string>{"matrix", "bias"} : std::vector<std::string>{"matrix"};
      ASSERT_TRUE(optimizer.SetFrozen(names, /*frozen=*/step == 2).ok());
    };
    const Outcome outcome = ExpectSameBits(job);
    job.options.bucket_bytes = 1;
    EXPECT_EQ(RunOn(kTopologies[2], job).result.digests, outcome.result.digests) << "bits depend on buckets";
  }
}

// M2: a frozen parameter's master is its weights, whoever shares its bucket, also after Initialize again; and its own
// count of steps begins anew there.
TEST(ParameterKinds, M2InitializeAgainWithSomethingFrozen) {
  std::map<std::string, std::vector<float>> masters[2];
  for (const int i : {0, 1}) {
    TrainingJob job = Job();
    job.options.bucket_bytes = i == 0 ? 1 : 1 << 20;
    job.before_step = [](ShardedOptimizer& optimizer, int64_t step) {
      const std::vector<std::string> matrix = {"matrix"};
      if (step > 0) {
        ASSERT_TRUE(optimizer.SetFrozen(matrix, /*frozen=*/step % 2 == 1).ok());
      }
      if (step != 3) return;
      ASSERT_TRUE(optimizer
                      .Initialize([](int p, int64_t begin, absl::Span<float> values) {
                        for (size_t j = 0; j < values.size(); ++j) values[j] = TrainingJob::InitialValue(p, begin + j);
                      })
                      .ok());
      EXPECT_EQ((*optimizer.ReadState("matrix", StateKind::kMaster))[5], InitialWeight(4, 5));
    };
    masters[i] = RunOn(kTopologies[1], job).masters;
  }
  EXPECT_EQ(masters[0], masters[1]);
}

// One of two names of a gradient is used: the other is not missing.
TEST(ParameterKinds, M3RefusesOnlyWhatNobodyWrote) {
  TrainingJob job = Job();
  job.options.missing_gradient = MissingGradientPolicy::kRefuse;
  job.micro_batches = 24;  // no rank is without one
  job.parameters = {{.name = "embedding", .shape = {17, 60}},
                    {.name = "head", .shape = {17, 60}, .tied_to = "embedding"}};
  job.unused = [](int64_t, int64_t, int p) { return p == 1; };
  ExpectSameBits(job);
}

// M2: local sums of a bucket that was frozen for a step were last exchanged before that.
TEST(ParameterKinds, M2FreezeForAStepWithLocalSums) {
  TrainingJob job = Job();
  job.options.accumulation = Accumulation::kLocal;
  job.before_step = [](ShardedOptimizer& optimizer, int64_t step) {
    if (step != 2 && step != 3) return;
    ASSERT_TRUE(optimizer.SetFrozen(std::vector<std::string>{"matrix"}, /*frozen=*/step == 2).ok());
  };
  const Outcome many_buckets = RunOn(kTopologies[2], job);
  job.options.bucket_bytes = 1 << 20;
  EXPECT_EQ(RunOn(kTopologies[2], job).masters, many_buckets.masters);
}

// M2: frozen for good, in buckets of its own or with others: its moments are in no digest.
TEST(ParameterKinds, M2FrozenMomentsAreInNoDigest) {
  TrainingJob job = Job();
  job.before_step = [](ShardedOptimizer& optimizer, int64_t step) {
    if (step != 2) return;
    ASSERT_TRUE(optimizer.SetFrozen(std::vector<std::string>{"matrix"}, true).ok());
  };
  const Outcome own_buckets = ExpectSameBits(job);
  job.options.bucket_bytes = 1 << 20;
  EXPECT_EQ(RunOn(kTopologies[1], job).result.digests, own_buckets.result.digests);
}

TEST(ParameterKinds, AsManyGroupsAsThereMayBe) {
  const auto layout = ShardLayout::Create({{.name = "w", .shape = {3}}}, {});
  ASSERT_TRUE(layout.ok());
  ParameterGroups groups(std::vector<GroupOptions>(kMaxGroups - 1), &*layout);
  EXPECT_TRUE(groups.AddGroup({}).ok());
  EXPECT_THAT(std::string(groups.AddGroup({}).status().message()), HasSubstr("number of groups = 1025"));
  EXPECT_EQ(static_cast<int64_t>(groups.groups().size()), kMaxGroups);
}

TEST(ParameterKinds, M2AFrozenParameterCostsWeightsOnly) {
  std::vector<ParameterSpec> parameters = {{.name = "a", .shape = {64 * 1024}}, {.name = "b", .shape = {64 * 1024}}};
  const auto both = ShardedOptimizer::EstimateMemory({}, parameters, 2);
  parameters[1].frozen = true;
  const auto one = ShardedOptimizer::EstimateMemory({}, parameters, 2);
  ASSERT_TRUE(both.ok() && one.ok());
  EXPECT_EQ(one->weights_shared_bytes, both->weights_shared_bytes);
  EXPECT_EQ(2 * one->rank_bytes(), both->rank_bytes());
}

// What is frozen and thawed later costs what it would have cost, but for gradients whose memory stays.
TEST(ParameterKinds, M2MemoryIsWhatIsHeldNow) {
  std::vector<ParameterSpec> parameters = {{.name = "a", .shape = {64 * 1024}}, {.name = "b", .shape = {64 * 1024}}};
  const MemoryEstimate both = *ShardedOptimizer::EstimateMemory({}, parameters, 1);
  parameters[1].frozen = true;
  const MemoryEstimate one = *ShardedOptimizer::EstimateMemory({}, parameters, 1);
  RunRankThreads(1, [&](Rendezvous& rendezvous) {
    const TrainingJob job;
    const auto optimizer = *ShardedOptimizer::Create(job.options, parameters, MakeLevels(job, rendezvous), &rendezvous);
    ASSERT_TRUE(optimizer->Initialize([](int, int64_t, absl::Span<float>) {}).ok());
    EXPECT_EQ(optimizer->memory().rank_bytes(), one.rank_bytes());
    for (int time = 0; time < 2; ++time) {
      ASSERT_TRUE(optimizer->SetFrozen({"b"}, false).ok());
      EXPECT_EQ(optimizer->memory().gradient_bytes, both.gradient_bytes);
      EXPECT_EQ(optimizer->memory().rank_bytes(), both.rank_bytes());
      ASSERT_TRUE(optimizer->SetFrozen({"b"}, true).ok());
      EXPECT_EQ(optimizer->memory().master_bytes, one.master_bytes);
      EXPECT_EQ(optimizer->memory().state_bytes, one.state_bytes);
      EXPECT_EQ(optimizer->memory().gradient_bytes, both.gradient_bytes);
    }
  });
}

TEST(ParameterKinds, FrozenGradientsAreRefused) {
  RunRankThreads(1, [](Rendezvous& rendezvous) {
    TrainingJob job = Job();
    std::vector<ParameterSpec> parameters = job.parameters;
    parameters[1].frozen = true;
    auto optimizer = ShardedOptimizer::Create(job.options, parameters, MakeLevels(job, rendezvous), &rendezvous);
    ASSERT_TRUE(optimizer.ok());
    const absl::Status status = (*optimizer)->GradientWritable(1);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("\"bias\""), HasSubstr("frozen")));
  });
}

// M3, M5: two names of one weight, of 4N + 1 rows, have one owner and one update of the sum of their gradients.
TEST(ParameterKinds, M3TiedWeightsAreOne) {
  TrainingJob single;
  single.max_norm = 0.5;
  single.options.bucket_bytes = 1;
  single.parameters = {{.name = "embedding", .shape = {17, 60}}, {.name = "body", .shape = {2000}}};
  TrainingJob tied = single;
  tied.parameters.push_back({.name = "head", .shape = {17, 60}, .tied_to = "embedding"});
  // The head writes first and the embedding adds nothing.
  tied.gradient = [](int64_t step, int64_t micro_batch, int p, int64_t element) {
    return TrainingJob::MixedGradient(step, micro_batch, p == 2 ? 0 : p, element);
  };
  tied.unused = [](int64_t, int64_t, int p) { return p == 0; };
  const Outcome two_names = ExpectSameBits(tied);
  const Outcome one_name = ExpectSameBits(single);
  EXPECT_EQ(two_names.masters.at("embedding"), one_name.masters.at("embedding"));
  EXPECT_EQ(two_names.masters.at("head"), one_name.masters.at("embedding"));
  EXPECT_EQ(two_names.result.digests, one_name.result.digests);
  for (size_t i = 0; i < one_name.masters.at("embedding").size(); ++i) {
    ASSERT_NE(one_name.masters.at("embedding")[i], TrainingJob::InitialValue(0, static_cast<int64_t>(i)));
  }
}

class TiedGradients : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(ParameterKinds, TiedGradients, ::testing::Bool());

TEST_P(TiedGradients, M3BothNamesAddUp) {
  const bool accumulate = GetParam();
  RunRankThreads(2, [accumulate](Rendezvous& rendezvous) {
    TrainingJob job = Job();
    const std::vector<ParameterSpec> parameters = {{.name = "embedding", .shape = {3}},
                                                   {.name = "head", .shape = {3}, .tied_to = "embedding"}};
    OptimizerOptions options;
    options.groups[0].rule = SgdOptions();
    options.accumulate_gradients = accumulate;
    auto created = ShardedOptimizer::Create(options, parameters, MakeLevels(job, rendezvous), &rendezvous);
    ASSERT_TRUE(created.ok()) << created.status();
    ShardedOptimizer& optimizer = **created;
    ASSERT_TRUE(optimizer.Initialize([](int, int64_t, absl::Span<float>) {}).ok());
    EXPECT_EQ(optimizer.gradient(0).data(), optimizer.gradient(1).data());
    EXPECT_EQ(optimizer.weights(0).data(), optimizer.weights(1).data());
    ASSERT_TRUE(optimizer.GradientWritable(1).ok());
    std::fill_n(optimizer.gradient(1).begin(), 3, ToBf16(1.0f));
    ASSERT_TRUE(optimizer.GradientReady(1).ok());
    ASSERT_TRUE(optimizer.GradientWritable(0).ok());
    for (Bf16& value : optimizer.gradient(0)) value = ToBf16(ToFloat(value) + 2.0f);
    ASSERT_TRUE(optimizer.GradientReady(0).ok());
    ASSERT_TRUE(optimizer.EndMicroStep().ok());
    ASSERT_TRUE(optimizer.Step({.learning_rate = 1}).ok());
    ASSERT_TRUE(optimizer.FinishStep().ok());
    EXPECT_THAT(*optimizer.ReadState("head", StateKind::kMaster), Each(-3.0f));
  });
}

// Stochastic rounding goes by applied steps, not by calls: a skipped step changes nothing that follows.
TEST(ParameterKinds, StochasticRoundingAfterASkippedStep) {
  TrainingJob job = Job();
  job.options.groups[0].master = Master::kNone;
  job.options.groups[0].rounding = Rounding::kStochastic;
  job.gradient = [](int64_t step, int64_t micro_batch, int p, int64_t element) {
    const bool poisoned = step == 1 && micro_batch == 3 && p == 4 && element == 7;
    return poisoned ? Bf16{0x7f80} : TrainingJob::MixedGradient(step, micro_batch, p, element);
  };
  EXPECT_EQ(ExpectSameBits(job).result.digests, RunReference(job).digests);
}

// M4: unused by some micro-batches, and so on some ranks: as if their gradients were zero.
TEST(ParameterKinds, M4UnusedOnSomeRanks) {
  TrainingJob job = Job();
  job.unused = [](int64_t step, int64_t micro_batch, int p) { return (step + micro_batch + p) % 3 == 0; };
  const Outcome unused = ExpectSameBits(job);
  TrainingJob zeros = Job();
  zeros.gradient = [unused = job.unused](int64_t step, int64_t micro_batch, int p, int64_t element) {
    return unused(step, micro_batch, p) ? Bf16() : TrainingJob::MixedGradient(step, micro_batch, p, element);
  };
  EXPECT_EQ(RunReference(zeros).digests, unused.result.digests);
}

// L2: fewer elements than ranks, empty ones, nothing at all.
TEST(ParameterKinds, L2TinyAndEmptyParameters) {
  TrainingJob job = Job();
  job.parameters = {{.name = "scalar", .shape = {}}, {.name = "empty", .shape = {0}}, {.name = "two", .shape = {2}}};
  ExpectSameBits(job);
  job.parameters = {{.name = "empty", .shape = {0}}};
  ExpectSameBits(job);
  job.parameters = {};
  ExpectSameBits(job);
}

// ---- Changes between steps -----------------------------------------------------------------------------------------

// N6: settings change; a group is added late. As the unsharded reference, with the settings of each step.
TEST(ParameterKinds, N6SettingsChangeBetweenSteps) {
  TrainingJob job = Job();
  job.steps = 6;
  const auto settings = [](int64_t step) {
    return AdamWOptions{.beta1 = step < 2 ? 0.9 : 0.8,
                        .beta2 = step < 4 ? 0.999 : 0.99,
                        .weight_decay = 0.01 * static_cast<double>(step),
                        .learning_rate_factor = step < 3 ? 1.0 : 0.5};
  };
  job.before_step = [&](ShardedOptimizer& optimizer, int64_t step) {
    const absl::Status status = optimizer.SetGroup(0, {.rule = settings(step)});
    ASSERT_TRUE(status.ok()) << status;
  };
  const Outcome changed = ExpectSameBits(job);
  job.reference_settings = settings;
  EXPECT_EQ(changed.result.digests, RunReference(job).digests);
}

TEST(ParameterKinds, N6AGroupIsAddedLate) {
  TrainingJob job = Job();
  job.max_norm.reset();
  job.steps = 5;
  job.parameters[4].frozen = true;
  const GroupOptions late{.rule = AdamWOptions{.beta1 = 0.5, .weight_decay = 0.2, .learning_rate_factor = 3}};
  job.before_step = [&](ShardedOptimizer& optimizer, int64_t step) {
    if (step != 2) return;
    const absl::StatusOr<int> group = optimizer.AddGroup(late, {"matrix", "bias"});
    ASSERT_TRUE(group.ok()) << group.status();
    EXPECT_EQ(*group, 1);
  };
  const Outcome outcome = ExpectSameBits(job);
  TrainingJob alone = Job();
  alone.max_norm.reset();
  alone.first_step = 2;
  alone.steps = 3;
  alone.options.groups = {late};
  alone.initial_value = InitialWeight;
  EXPECT_EQ(outcome.masters.at("matrix"), RunOn(kTopologies[0], alone).masters.at("matrix"));
}

TEST(ParameterKinds, WhatIsFixedAtCreationIsRefused) {
  RunRankThreads(2, [](Rendezvous& rendezvous) {
    TrainingJob job = Job();
    auto created = ShardedOptimizer::Create(job.options, job.parameters, MakeLevels(job, rendezvous), &rendezvous);
    ASSERT_TRUE(created.ok());
    ShardedOptimizer& optimizer = **created;
    EXPECT_EQ(optimizer.SetGroup(0, {.rule = LionOptions()}).code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(optimizer.SetGroup(0, {.rule = AdamWOptions(), .master = Master::kSplit}).code(),
              absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(optimizer.SetGroup(0, {.rule = AdamWOptions{.beta1 = 2}}).message()),
                HasSubstr("group[0].adamw.beta1 = 2"));
    EXPECT_EQ(optimizer.SetGroup(1, {.rule = AdamWOptions()}).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(optimizer.AddGroup({.rule = SgdOptions()}, {"bias"}).status().message()),
                HasSubstr("\"bias\""));
    EXPECT_THAT(std::string(optimizer.SetFrozen({"nobody"}, true).message()), HasSubstr("\"nobody\""));
    EXPECT_EQ(optimizer.groups().groups().size(), 1);
    EXPECT_EQ(std::get<AdamWOptions>(optimizer.groups().groups()[0].rule).beta1, 0.9);
  });
}

}  // namespace
}  // namespace shardstep
