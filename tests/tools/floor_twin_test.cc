// The floor's twin against a real optimizer: it moves the table's bytes, and a training run does not notice it.
#include "shardstep/tools/bench/floor_twin.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/runtime/sharded_optimizer.h"
#include "shardstep/tests/comm/rank_threads.h"
#include "shardstep/tools/bench/bench_check.h"
#include "shardstep/tools/bench/bench_model.h"

namespace shardstep {
namespace {

struct Case {
  int ranks = 2;
  GroupOptions group;
  int64_t micro_steps = 1;
  bool two_passes = true;
  bool private_weights = false;

  std::string Name() const {
    return absl::StrCat(ranks, " ranks, ", DescribeGroup(group), ", ", micro_steps, " micro-steps, ",
                        two_passes ? "two passes, " : "one pass, ", private_weights ? "private" : "shared");
  }
  StepCase step() const {
    return {.ranks = ranks,
            .update = group.kind(),
            .micro_steps = micro_steps,
            .two_passes = two_passes,
            .private_weights = private_weights};
  }
  BenchOptions options() const {
    BenchOptions options;
    // Several buckets; nothing is a whole number of blocks, and some ranks have nothing of the last one.
    options.parameters = {
        {.name = "matrix", .shape = {101, 65}}, {.name = "bias", .shape = {7}}, {.name = "rest", .shape = {3001}}};
    options.optimizer.groups = {group};
    options.optimizer.bucket_bytes = 4096;
    options.optimizer.micro_steps = micro_steps;
    options.optimizer.non_finite = two_passes ? NonFinitePolicy::kSkip : NonFinitePolicy::kIgnore;
    options.optimizer.weights = private_weights ? WeightCopies::kPrivate : WeightCopies::kShared;
    options.max_norm = two_passes ? std::optional(0.01) : std::nullopt;
    return options;
  }
};

std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (const Master master : {Master::kFp32, Master::kSplit}) {
    for (const bool two_passes : {true, false}) {
      for (const bool private_weights : {false, true}) {
        for (const int64_t micro_steps : {1, 3}) {
          cases.push_back({.group = {.master = master},
                           .micro_steps = micro_steps,
                           .two_passes = two_passes,
                           .private_weights = private_weights});
        }
      }
    }
    cases.push_back({.ranks = 1, .group = {.master = master}});
    cases.push_back({.ranks = 3, .group = {.rule = LionOptions(), .master = master}});
    cases.push_back({.ranks = 5, .group = {.rule = SgdOptions{.momentum = 0.9}, .master = master}});
    cases.push_back({.ranks = 2, .group = {.rule = SgdOptions(), .master = master}});
  }
  return cases;
}

void Step(const BenchOptions& options, ShardedOptimizer& optimizer) {
  for (int64_t k = 0; k < options.optimizer.micro_steps; ++k) {
    for (int p = optimizer.layout().parameter_count() - 1; p >= 0; --p) {
      ASSERT_TRUE(optimizer.GradientWritable(p).ok());
      const absl::Span<Bf16> gradient = optimizer.gradient(p);
      for (size_t i = 0; i < gradient.size(); ++i) gradient[i] = BenchGradient(optimizer.rank(), p, i);
      ASSERT_TRUE(optimizer.GradientReady(p).ok());
    }
    ASSERT_TRUE(optimizer.EndMicroStep().ok());
  }
  ASSERT_TRUE(optimizer.Step({.learning_rate = kBenchLearningRate, .max_norm = options.max_norm}).ok());
  for (int p = 0; p < optimizer.layout().parameter_count(); ++p) ASSERT_TRUE(optimizer.WeightsReady(p).ok());
  ASSERT_TRUE(optimizer.FinishStep().ok());
}

std::unique_ptr<ShardedOptimizer> CreateOptimizer(const BenchOptions& options, Rendezvous& rendezvous) {
  auto communicator = CreateInprocCommunicator(rendezvous, {});
  EXPECT_TRUE(communicator.ok()) << communicator.status();
  CommunicatorLevels levels;
  levels.host = *std::move(communicator);
  auto optimizer = ShardedOptimizer::Create(options.optimizer, options.parameters, std::move(levels), &rendezvous);
  EXPECT_TRUE(optimizer.ok()) << optimizer.status();
  EXPECT_TRUE((*optimizer)
                  ->Initialize([](int p, int64_t begin, absl::Span<float> values) {
                    for (size_t i = 0; i < values.size(); ++i) values[i] = BenchMaster(p, begin + i);
                  })
                  .ok());
  return *std::move(optimizer);
}

// Until every rank is here.
void Meet(Rendezvous& rendezvous) { ASSERT_TRUE(rendezvous.AllGatherBytes("here", "", absl::Minutes(1)).ok()); }

// Runs `body` on every rank, with an optimizer that has taken one step and its twin.
using Body = std::function<void(Rendezvous&, const BenchOptions&, ShardedOptimizer&, FloorTwin&)>;
void AfterAStep(const Case& c, const Body& body) {
  const BenchOptions options = c.options();
  RunRankThreads(c.ranks, [&](Rendezvous& rendezvous) {
    const std::unique_ptr<ShardedOptimizer> optimizer = CreateOptimizer(options, rendezvous);
    ASSERT_NO_FATAL_FAILURE(Step(options, *optimizer));
    const auto twin = FloorTwin::Create(c.step(), ShardBuffersOf(*optimizer), /*threads=*/2);
    ASSERT_TRUE(twin.ok()) << twin.status();
    Meet(rendezvous);
    body(rendezvous, options, *optimizer, **twin);
    Meet(rendezvous);
  });
}

// An array of a bucket, padding included, and which of its elements may change.
struct Array {
  std::string name;
  const std::byte* data = nullptr;
  int64_t element_bytes = 0;
  int64_t elements = 0;
  std::vector<bool> may_change;
  std::vector<std::byte> before;
};

void AddArray(const std::string& name, const ShardBuffers& bucket, const void* data, int64_t element_bytes,
              bool may_change, std::vector<Array>* arrays) {
  if (data == nullptr) return;
  const auto* const bytes = static_cast<const std::byte*>(data);
  Array array{name, bytes, element_bytes, bucket.shard_elements};
  array.may_change.resize(bucket.shard_elements);
  for (const Segment& segment : bucket.segments) {
    std::fill_n(array.may_change.begin() + segment.shard_begin_element, segment.elements, may_change);
  }
  array.before.assign(bytes, bytes + element_bytes * bucket.shard_elements);
  arrays->push_back(std::move(array));
}

std::vector<Array> ArraysOf(const ShardedOptimizer& optimizer) {
  std::vector<Array> arrays;
  for (const ShardBuffers& bucket : ShardBuffersOf(optimizer)) {
    for (const Slice& slice : bucket.gradients) AddArray("gradients", bucket, slice.data, 2, false, &arrays);
    AddArray("masters", bucket, bucket.master, 4, false, &arrays);
    AddArray("remainders", bucket, bucket.remainder, 2, false, &arrays);
    AddArray("first moments", bucket, bucket.first_moment, 4, false, &arrays);
    AddArray("second moments", bucket, bucket.second_moment, 4, false, &arrays);
    AddArray("sums", bucket, bucket.accumulator, 4, true, &arrays);
    for (size_t i = 0; i < bucket.destinations.size(); ++i) {
      // Half of a split master are the weights.
      const bool is_master = i == 0 && bucket.master == nullptr;
      AddArray("weights", bucket, bucket.destinations[i], 2, !is_master, &arrays);
    }
  }
  return arrays;
}

void ExpectUnchanged(const std::vector<Array>& arrays) {
  for (const Array& array : arrays) {
    int64_t changed = 0;
    for (int64_t i = 0; i < array.elements; ++i) {
      const int64_t byte = i * array.element_bytes;
      if (array.may_change[i]) continue;
      if (std::memcmp(array.data + byte, array.before.data() + byte, array.element_bytes) != 0) ++changed;
    }
    EXPECT_EQ(changed, 0) << array.name;
  }
}

TEST(FloorTwinTest, MovesTheTablesBytes) {
  for (const Case& c : AllCases()) {
    SCOPED_TRACE(c.Name());
    std::vector<int64_t> gradient_bytes(c.ranks), update_bytes(c.ranks);
    AfterAStep(c, [&](Rendezvous& rendezvous, const BenchOptions&, ShardedOptimizer&, FloorTwin& twin) {
      gradient_bytes[rendezvous.rank()] = twin.gradient_bytes();
      update_bytes[rendezvous.rank()] = twin.update_bytes();
    });
    const auto sum = [](const std::vector<int64_t>& of_ranks) {
      int64_t all = 0;
      for (const int64_t bytes : of_ranks) all += bytes;
      return static_cast<double>(all);
    };
    const auto elements = static_cast<double>(ElementCount(c.options().parameters));
    EXPECT_EQ(sum(gradient_bytes), CountMemoryCost(c.step()).gradients * elements);
    EXPECT_EQ(sum(update_bytes), CountMemoryCost(c.step()).update * elements);
  }
}

TEST(FloorTwinTest, KeepsStateAndPaddingBitForBit) {
  for (const Case& c : AllCases()) {
    SCOPED_TRACE(c.Name());
    AfterAStep(c, [](Rendezvous& rendezvous, const BenchOptions&, ShardedOptimizer& optimizer, FloorTwin& twin) {
      const std::vector<Array> arrays = ArraysOf(optimizer);
      Meet(rendezvous);
      for (int round = 0; round < 2; ++round) {
        twin.Gradients();
        twin.Update();
      }
      Meet(rendezvous);
      ExpectUnchanged(arrays);
    });
  }
}

TEST(FloorTwinTest, TheNextStepHasTheReferencesWeights) {
  for (const Case& c : AllCases()) {
    SCOPED_TRACE(c.Name());
    const auto expected = ReferenceWeights(c.options(), c.ranks, /*steps=*/2);
    ASSERT_TRUE(expected.ok()) << expected.status();
    AfterAStep(c,
               [&](Rendezvous& rendezvous, const BenchOptions& options, ShardedOptimizer& optimizer, FloorTwin& twin) {
                 twin.Gradients();
                 twin.Update();
                 Meet(rendezvous);
                 ASSERT_NO_FATAL_FAILURE(Step(options, optimizer));
                 EXPECT_EQ(CountWrong(*expected, [&](int p) { return optimizer.weights(p); }), 0);
               });
  }
}

TEST(FloorTwinTest, RefusesAStepThatKeepsNoSum) {
  AfterAStep({}, [](Rendezvous&, const BenchOptions&, ShardedOptimizer& optimizer, FloorTwin&) {
    const auto twin = FloorTwin::Create({.ranks = 8}, ShardBuffersOf(optimizer), 1);
    EXPECT_EQ(twin.status().code(), absl::StatusCode::kInternal);
  });
}

}  // namespace
}  // namespace shardstep
