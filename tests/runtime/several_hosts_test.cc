// Jobs on several hosts, as threads: memory is shared within a host, and a double of a network joins them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shardstep/runtime/host_contributions.h"
#include "shardstep/runtime/job_memory.h"
#include "shardstep/tests/comm/delaying_communicator.h"
#include "shardstep/tests/comm/rank_threads.h"
#include "training_job.h"

namespace shardstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TrainingJob Job() {
  TrainingJob job;
  job.options.bucket_bytes = 1;  // one block per rank, so many buckets
  job.steps = 4;
  job.max_norm = 0.5;
  return job;
}

// The hosts of a job by name, "2x2" or where each rank is, "0101".
struct Topology {
  std::string name;
  int ranks;
  std::vector<int> host_of_rank;
};
const Topology kTopologies[] = {{"1x1", 1, {}},
                                {"1x4", 4, {}},
                                {"2x2", 4, {0, 0, 1, 1}},
                                {"4x1", 4, {0, 1, 2, 3}},
                                {"3x2", 6, {0, 0, 1, 1, 2, 2}},
                                {"permuted 2x2", 4, {0, 1, 1, 0}}};

TrainingResult RunOn(const Topology& topology, TrainingJob job) {
  job.world_size = topology.ranks;
  job.host_of_rank = topology.host_of_rank;
  return RunTrainingJob(job);
}

void ExpectSameBitsOnAll(const TrainingJob& job) {
  const TrainingResult alone = RunOn(kTopologies[0], job);
  for (const Topology& topology : kTopologies) {
    const TrainingResult result = RunOn(topology, job);
    EXPECT_EQ(result.digests, alone.digests) << topology.name;
    EXPECT_TRUE(result == alone) << topology.name << ": records differ";
    for (const StepRecord& record : result.records) EXPECT_THAT(record.inexact_modes, IsEmpty());
  }
}

TEST(Hosts, L5SameBitsOnEveryTopology) {
  TrainingJob job = Job();
  EXPECT_EQ(RunOn(kTopologies[0], job).digests, RunReference(job).digests);
  ExpectSameBitsOnAll(job);
}

TEST(Hosts, SameBitsWithGroupsOfMicroBatches) {
  TrainingJob job = Job();
  const TrainingResult plain = RunOn(kTopologies[0], job);
  for (const int64_t group : {2, 3, 4}) {
    job.options.sum_group = group;
    ExpectSameBitsOnAll(job);
    EXPECT_FALSE(RunOn(kTopologies[0], job).digests == plain.digests) << "groups of " << group << " change nothing";
  }
}

TEST(Hosts, SameBitsWhateverThePass) {
  TrainingJob job = Job();
  job.max_norm.reset();
  job.options.non_finite = NonFinitePolicy::kIgnore;
  ExpectSameBitsOnAll(job);
}

// The place of a NaN is named by whoever has the gradient, also when only sums of it travel.
TEST(Hosts, C3NonFiniteIsNamedWhateverTravels) {
  for (const int64_t group : {1, 2}) {
    TrainingJob job = Job();
    job.options.sum_group = group;
    job.gradient = [](int64_t step, int64_t micro_batch, int p, int64_t element) {
      const bool poisoned = step == 1 && micro_batch >= 5 && p == 4 && element == 77;
      return poisoned ? Bf16{0x7fc0} : TrainingJob::MixedGradient(step, micro_batch, p, element);
    };
    const TrainingResult alone = RunOn(kTopologies[0], job);
    for (const Topology& topology : kTopologies) {
      const TrainingResult result = RunOn(topology, job);
      EXPECT_EQ(result.digests, alone.digests) << topology.name;
      ASSERT_TRUE(result.records[1].non_finite.has_value()) << topology.name;
      EXPECT_EQ(result.records[1].non_finite->micro_batch, 5);
      EXPECT_EQ(result.records[1].non_finite->rank, 5 % topology.ranks);
      EXPECT_EQ(result.records[1].non_finite->parameter, "matrix");
      EXPECT_EQ(result.records[1].non_finite->element, 77);
    }
  }
}

TEST(Hosts, RoundedSumsAreNamedAndDiffer) {
  TrainingJob job = Job();
  const TrainingResult exact = RunOn(kTopologies[2], job);
  job.options.host_sum = HostSum::kRounded;
  const TrainingResult rounded = RunOn(kTopologies[2], job);
  EXPECT_FALSE(rounded.digests == exact.digests);
  EXPECT_THAT(rounded.records[0].inexact_modes, ElementsAre("host_sum: ROUNDED"));
  EXPECT_NEAR(*rounded.records[0].gradient_norm, *exact.records[0].gradient_norm, 1e-2);
  // A host of one rank, or one host, has nothing to round.
  EXPECT_EQ(RunOn(kTopologies[3], job).digests, exact.digests);
  EXPECT_EQ(RunOn(kTopologies[1], job).digests, exact.digests);
}

TEST(Hosts, LocalSumsAreNamedAndDiffer) {
  TrainingJob job = Job();
  const TrainingResult exact = RunOn(kTopologies[1], job);
  job.options.accumulation = Accumulation::kLocal;
  const TrainingResult local = RunOn(kTopologies[1], job);
  EXPECT_FALSE(local.digests == exact.digests);
  EXPECT_THAT(local.records[0].inexact_modes, ElementsAre("accumulation: LOCAL"));
  // The order of sums is by rank: the same on any hosts.
  for (const int topology : {2, 3, 5}) {
    EXPECT_EQ(RunOn(kTopologies[topology], job).digests, local.digests) << kTopologies[topology].name;
  }
}

// A rank that uses no weights runs a step ahead of the others, which finish late: nothing of its next step gets into
// this one's sums, slices or search for inf and NaN.
TEST(Hosts, LocalSumsOfTheNextStepStayApart) {
  for (const int topology : {1, 2, 3}) {
    TrainingJob job = Job();
    job.options.accumulation = Accumulation::kLocal;
    job.micro_batches = 4;
    job.steps = 6;
    // Three buckets: in turns they land in the other slot of the ring.
    job.parameters = {{.name = "a", .shape = {4096}}, {.name = "b", .shape = {4096}}, {.name = "c", .shape = {4096}}};
    job.gradient = [](int64_t step, int64_t micro_batch, int p, int64_t element) {
      const bool poisoned = step == 3 && micro_batch == 3 && p == 2 && element == 7;
      return poisoned ? Bf16{0x7fc0} : TrainingJob::MixedGradient(step, micro_batch, p, element);
    };
    const TrainingResult expected = RunOn(kTopologies[topology], job);
    EXPECT_FALSE(expected.records[3].applied);
    job.finish_late = true;
    job.uses_no_weights = [](int rank) { return rank == 3; };
    job.before_gradient = [](int rank) {
      if (rank != 3) std::this_thread::sleep_for(std::chrono::milliseconds(3));
    };
    const TrainingResult ahead = RunOn(kTopologies[topology], job);
    EXPECT_EQ(ahead.digests, expected.digests) << kTopologies[topology].name;
    EXPECT_TRUE(ahead == expected) << kTopologies[topology].name << ": records differ";
  }
}

// S1 across hosts: any rank late at any stage of any level.
TEST(Hosts, S1DelaysChangeNoBits) {
  TrainingJob job = Job();
  job.steps = 2;
  const TrainingResult quiet = RunOn(kTopologies[2], job);
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    job.wrap = [seed](std::unique_ptr<Communicator> communicator, int rank) {
      return std::make_unique<DelayingCommunicator>(std::move(communicator), DelayOptions{.seed = seed * 31 + rank});
    };
    EXPECT_EQ(RunOn(kTopologies[2], job).digests, quiet.digests) << "seed " << seed;
  }
}

// S3: each forward uses the weights in an order of its own, while the step before is still being finished, on ranks
// that are late at any stage: what it reads is what that step has left, never what was there before.
TEST(Hosts, S3ForwardsNeverReadOldWeights) {
  using Seen = std::map<std::pair<int64_t, int>, std::vector<Bf16>>;
  TrainingJob job = Job();
  job.finish_late = true;
  Seen expected;
  job.forward = [&](ShardedOptimizer& optimizer, int64_t step, int p) {
    const absl::Span<const Bf16> weights = optimizer.weights(p);
    expected[{step, p}] = {weights.begin(), weights.end()};
  };
  RunOn(kTopologies[0], job);
  ASSERT_NE((expected[{1, 4}]), (expected[{2, 4}]));
  for (const Topology& topology : {kTopologies[1], kTopologies[2], kTopologies[3]}) {
    for (uint64_t seed = 1; seed <= 10; ++seed) {
      job.ready_order_seed = seed;
      job.wrap = [seed](std::unique_ptr<Communicator> communicator, int rank) {
        return std::make_unique<DelayingCommunicator>(std::move(communicator), DelayOptions{.seed = seed * 31 + rank});
      };
      std::atomic<int> old = 0;
      job.forward = [&](ShardedOptimizer& optimizer, int64_t step, int p) {
        const absl::Span<const Bf16> weights = optimizer.weights(p);
        if (!std::equal(weights.begin(), weights.end(), expected.at({step, p}).begin())) ++old;
      };
      RunOn(topology, job);
      EXPECT_EQ(old, 0) << topology.name << ", seed " << seed;
    }
  }
}

// ---- What fails ----------------------------------------------------------------------------------------------------

// A level whose publishing waits for `go` on the stream, and then fails.
class FailingPublish : public DelayingCommunicator {
 public:
  FailingPublish(std::unique_ptr<Communicator> inner, std::atomic<bool>* go)
      : DelayingCommunicator(std::move(inner), {.max_delay_us = 0}), go_(go) {}
  absl::Status Publish(int bucket, int64_t step, Stream& stream) override {
    if (step < kFailingStep) return DelayingCommunicator::Publish(bucket, step, stream);
    dynamic_cast<HostStream&>(stream).Enqueue("Publish", [this] {
      while (!*go_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return absl::DataLossError("not published");
    });
    return absl::OkStatus();
  }

 private:
  static constexpr int64_t kFailingStep = 2;  // 0 is Initialize, 1 an optimizer's first step
  std::atomic<bool>* go_;
};

// The record of a step is there once its updates are done; weights of the other hosts come later, or never.
// Other hosts, which meet it at the decision, hear of it too.
TEST(Hosts, ARankMayBeAwayLongerThanTheDeadline) {
  TrainingJob job;
  job.host_of_rank = {0, 1};
  job.options.wait_deadline = absl::Milliseconds(300);
  RunRankThreads(2, [&](Rendezvous& rendezvous) {
    const auto created =
        ShardedOptimizer::Create(job.options, job.parameters, MakeLevels(job, rendezvous), &rendezvous);
    ASSERT_TRUE(created.ok()) << created.status();
    ShardedOptimizer& optimizer = **created;
    ASSERT_TRUE(optimizer.Initialize([](int, int64_t, absl::Span<float>) {}).ok());
    ASSERT_TRUE(optimizer.EndMicroStep().ok());
    if (rendezvous.rank() == 1) {
      optimizer.SetAway(absl::Minutes(1));
      std::this_thread::sleep_for(std::chrono::milliseconds(900));
      optimizer.SetAway(absl::ZeroDuration());
    }
    ASSERT_TRUE(optimizer.Step({.learning_rate = 0.1}).ok());
    const auto record = optimizer.FinishStep();
    EXPECT_TRUE(record.ok()) << record.status();
  });
}

TEST(Hosts, AStepThatIsNotPublishedLeavesTheOptimizerTorn) {
  TrainingJob job = Job();
  job.world_size = 2;
  job.host_of_rank = {0, 1};
  job.steps = 2;
  job.options.wait_deadline = absl::Seconds(20);
  std::atomic<bool> go = false;
  job.wrap = [&](std::unique_ptr<Communicator> communicator, int rank) -> std::unique_ptr<Communicator> {
    const bool within_host = communicator->world_size() == 1;
    if (rank != 0 || !within_host) return communicator;
    return std::make_unique<FailingPublish>(std::move(communicator), &go);
  };
  RunRankThreads(job.world_size, [&](Rendezvous& rendezvous) {
    OptimizerOptions options = job.options;
    options.micro_steps = job.micro_steps();
    auto optimizer = *ShardedOptimizer::Create(options, job.parameters, MakeLevels(job, rendezvous), &rendezvous);
    ASSERT_TRUE(
        optimizer
            ->Initialize([](int, int64_t, absl::Span<float> values) { std::fill(values.begin(), values.end(), 1.0f); })
            .ok());
    std::vector<StepRecord> records;
    ASSERT_NO_FATAL_FAILURE(Train(job, *optimizer, 0, job.steps, &records));
    EXPECT_TRUE(records.back().applied);
    if (rendezvous.rank() != 0) return;
    go = true;
    absl::Status status;
    while ((status = optimizer->GradientWritable(0)).ok()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), HasSubstr("the optimizer is torn"));
    EXPECT_THAT(std::string(optimizer->Save("nowhere", "").message()), HasSubstr("torn"));
  });
}

// ---- What travels --------------------------------------------------------------------------------------------------

HostMap Map(const std::vector<std::vector<int>>& hosts) { return {.hosts = hosts}; }

TEST(HostContributions, WholeGroupsTravelAsOneSum) {
  OptimizerOptions options;
  EXPECT_EQ(PlanContributions(Map({{0, 1, 2, 3}, {4, 5, 6, 7}}), options).count(), 4);
  options.sum_group = 2;
  const HostContributions pairs = PlanContributions(Map({{0, 1, 2, 3}, {4, 5, 6, 7}}), options);
  EXPECT_TRUE(pairs.sums);
  ASSERT_EQ(pairs.count(), 2);
  EXPECT_EQ(pairs.contributions[1].first, 2);
  EXPECT_EQ(pairs.contributions[1].ranks, 2);
  // Ranks in turns, or groups that hosts do not hold: single gradients.
  EXPECT_FALSE(PlanContributions(Map({{0, 2}, {1, 3}}), options).sums);
  options.sum_group = 3;
  EXPECT_FALSE(PlanContributions(Map({{0, 1, 2, 3}, {4, 5, 6, 7}}), options).sums);
  options = {.host_sum = HostSum::kRounded};
  const HostContributions rounded = PlanContributions(Map({{0, 2}, {1, 3}}), options);
  EXPECT_TRUE(rounded.rounded);
  EXPECT_EQ(rounded.count(), 1);
  EXPECT_EQ(rounded.SumDtype(DType::kBf16), DType::kBf16);
  EXPECT_EQ(rounded.SumDtype(DType::kFp32), DType::kFp32);
}

// The cost contract: per host and direction, weights 2P(H-1)/H; gradients the same rounded, 2L/G times that in fp32
// groups of G, L times that as they are.
TEST(HostContributions, WireBytesAreTheContracts) {
  const int64_t p = 8 * 1024;
  const auto layout = ShardLayout::Create({{.name = "w", .shape = {p}}}, {.world_size = 8});
  ASSERT_TRUE(layout.ok());
  const HostMap map = Map({{0, 1, 2, 3}, {4, 5, 6, 7}});
  const auto bytes = [&](const OptimizerOptions& options, int64_t micro_steps) {
    return WireBytesPerHost(map, *layout, {true}, options, micro_steps);
  };
  const int64_t weights = 2 * p / 2;
  EXPECT_EQ(bytes({}, 1).weight_bytes, weights);
  EXPECT_EQ(bytes({}, 1).gradient_bytes, 4 * weights);
  EXPECT_EQ(bytes({}, 3).gradient_bytes, 3 * 4 * weights);
  EXPECT_EQ(bytes({.sum_group = 4}, 1).gradient_bytes, 2 * 4 / 4 * weights);
  EXPECT_EQ(bytes({.sum_group = 2}, 1).gradient_bytes, 2 * 4 / 2 * weights);
  EXPECT_EQ(bytes({.host_sum = HostSum::kRounded}, 1).gradient_bytes, weights);
  EXPECT_EQ(bytes({.accumulation = Accumulation::kLocal}, 3).gradient_bytes, 2 * 4 * weights);
  EXPECT_EQ(WireBytesPerHost(map, *layout, {false}, {}, 1).gradient_bytes, 0);  // M2: frozen
  EXPECT_EQ(DescribeWire("host", {}, *layout, {true}, {}, 1), "");
  EXPECT_EQ(DescribeWire("host", map, *layout, {true}, {}, 1),
            "between 2 hosts, per host and step: weights 0.008 MB, gradients 0.033 MB; by mode: exact 0.033 MB, "
            "sum_group 4 0.016 MB, host_sum ROUNDED 0.008 MB, accumulation LOCAL 0.066 MB");
}

// Rings of two buckets: fp32 gradients land as fp32, and sums that wait for the network are counted too.
TEST(HostContributions, TransitMemoryIsThatOfTheRings) {
  const int64_t p = 8 * 1024;
  const CommunicatorTraits network{.slices_persist = false, .landing_buckets = 2, .joins_hosts = true};
  const HostMap map = Map({{0, 1, 2, 3}, {4, 5, 6, 7}});
  const auto transit_bytes = [&](DType gradients, const OptimizerOptions& options) {
    const auto layout =
        ShardLayout::Create({{.name = "w", .shape = {p}, .gradient_dtype = gradients}}, {.world_size = 8});
    return EstimateJobMemory(options, *layout, map, {{}, network}, {}).transit_bytes;
  };
  const int64_t shard = p / 8;
  EXPECT_EQ(transit_bytes(DType::kBf16, {}), 2 * 4 * shard * 2);
  EXPECT_EQ(transit_bytes(DType::kFp32, {}), 2 * 4 * shard * 4);
  // Two sums of each shard land; two of both shards of the rail wait.
  EXPECT_EQ(transit_bytes(DType::kBf16, {.sum_group = 2}), 2 * 2 * shard * 4 + 2 * 2 * 2 * shard * 4);
}

}  // namespace
}  // namespace shardstep
