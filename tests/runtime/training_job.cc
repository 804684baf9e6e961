#include "training_job.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <ostream>
#include <random>

#include "absl/strings/str_cat.h"
#include "shardstep/comm/group_rendezvous.h"
#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/tests/comm/landing_communicator.h"
#include "shardstep/tests/comm/rank_threads.h"
#include "shardstep/tools/reference/reference_group.h"

namespace shardstep {
namespace {

// A counter-based generator: the same value whoever asks (SplitMix64, Steele et al., OOPSLA 2014).
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

double Uniform(uint64_t key) { return static_cast<double>(Mix(key) >> 11) * 0x1p-53; }

shardstep_reference::Digests ToHex(const OptimizerDigests& digests) {
  return {.weights = digests.weights.ToHex(),
          .master = digests.master.ToHex(),
          .first_moment = digests.first_moment.ToHex(),
          .second_moment = digests.second_moment.ToHex()};
}

void Tell(const TrainingJob& job, ShardedOptimizer& optimizer, const char* call, int p, int64_t k) {
  if (job.before_call) job.before_call(optimizer, absl::StrCat(call, "(", p, ") of micro-step ", k));
}

// Writes the gradient of p to `to`, of the parameter's dtype.
void Fill(const TrainingJob& job, const ShardLayout& layout, int64_t step, int64_t micro_batch, int p, void* to) {
  const bool bf16 = layout.parameter(p).gradient_dtype == DType::kBf16;
  for (int64_t i = 0; i < layout.elements(p); ++i) {
    const Bf16 value = job.gradient(step, micro_batch, p, i);
    if (bf16) {
      static_cast<Bf16*>(to)[i] = value;
    } else {
      static_cast<float*>(to)[i] = job.fp32_gradient ? job.fp32_gradient(step, micro_batch, p, i) : ToFloat(value);
    }
  }
}

void WriteGradient(const TrainingJob& job, ShardedOptimizer& optimizer, int64_t step, int64_t micro_batch, int p) {
  const ShardLayout& layout = optimizer.layout();
  if (job.upload) {
    std::vector<std::byte> gradient(layout.elements(p) * SizeBytes(layout.parameter(p).gradient_dtype));
    Fill(job, layout, step, micro_batch, p, gradient.data());
    return job.upload(optimizer, p, gradient);
  }
  const absl::Span<Bf16> bf16 = job.gradient_memory ? job.gradient_memory(optimizer, p) : optimizer.gradient(p);
  void* const to = bf16.empty() ? static_cast<void*>(optimizer.fp32_gradient(p).data()) : bf16.data();
  Fill(job, layout, step, micro_batch, p, to);
}

}  // namespace

std::vector<ParameterSpec> TrainingJob::MixedParameters() {
  return {{.name = "embedding", .shape = {70, 60}}, {.name = "bias", .shape = {7}},
          {.name = "scalar", .shape = {}},          {.name = "empty", .shape = {0, 5}},
          {.name = "matrix", .shape = {33, 65}},    {.name = "block", .shape = {1024}},
          {.name = "head", .shape = {3, 1000}}};
}

Bf16 TrainingJob::MixedGradient(int64_t step, int64_t micro_batch, int parameter, int64_t element) {
  const uint64_t key = ((static_cast<uint64_t>(step) * 4099 + micro_batch) * 61 + parameter) * 1000003 + element;
  // Magnitudes over twelve binary orders, so that the order of additions shows.
  return ToBf16(static_cast<float>((Uniform(key) - 0.5) * std::ldexp(1.0, static_cast<int>(Mix(key) % 12) - 8)));
}

float TrainingJob::InitialValue(int parameter, int64_t element) {
  return static_cast<float>(Uniform(static_cast<uint64_t>(parameter) << 32 | element) - 0.5);
}

void MicroStep(const TrainingJob& job, ShardedOptimizer& optimizer, int64_t step, int64_t k) {
  const int64_t micro_batch = k * optimizer.world_size() + optimizer.rank();
  const int count = optimizer.layout().parameter_count() - (job.unused_last_parameter ? 1 : 0);
  std::vector<int> order(count);
  std::iota(order.rbegin(), order.rend(), 0);
  if (job.ready_order_seed != 0) {
    std::shuffle(order.begin(), order.end(), std::mt19937_64(Mix(job.ready_order_seed + 977 * step + micro_batch)));
  }
  const bool no_weights = job.uses_no_weights && job.uses_no_weights(optimizer.rank());
  for (auto p = order.rbegin(); p != order.rend() && !no_weights; ++p) {
    Tell(job, optimizer, "WeightsReady", *p, k);
    ASSERT_TRUE(optimizer.WeightsReady(*p).ok());
    if (job.forward) job.forward(optimizer, step, *p);
  }
  for (const int p : order) {
    if (micro_batch >= job.micro_batches) break;
    if (optimizer.groups().frozen(p) || (job.unused && job.unused(step, micro_batch, p))) continue;
    if (job.before_gradient) job.before_gradient(optimizer.rank());
    Tell(job, optimizer, "GradientWritable", p, k);
    ASSERT_TRUE(optimizer.GradientWritable(p).ok());
    WriteGradient(job, optimizer, step, micro_batch, p);
    ASSERT_TRUE(optimizer.GradientReady(p).ok());
  }
  Tell(job, optimizer, "EndMicroStep", 0, k);
  const absl::Status ended = optimizer.EndMicroStep();
  ASSERT_TRUE(ended.ok()) << ended;
}

StepArguments ArgumentsOf(const TrainingJob& job, int64_t step) {
  return {.learning_rate = 0.01 / (1.0 + step), .micro_batches = job.micro_batches, .max_norm = job.max_norm};
}

void Train(const TrainingJob& job, ShardedOptimizer& optimizer, int64_t first_step, int64_t steps,
           std::vector<StepRecord>* records) {
  const auto finish = [&] {
    const absl::StatusOr<StepRecord> record = optimizer.FinishStep();
    ASSERT_TRUE(record.ok()) << record.status();
    records->push_back(*record);
  };
  for (int64_t step = first_step; step < first_step + steps; ++step) {
    if (job.before_step) {
      ASSERT_NO_FATAL_FAILURE(job.before_step(optimizer, step));
    }
    for (int64_t k = 0; k < job.micro_steps(); ++k) ASSERT_NO_FATAL_FAILURE(MicroStep(job, optimizer, step, k));
    if (job.finish_late && step > first_step) finish();
    if (testing::Test::HasFatalFailure()) return;
    Tell(job, optimizer, "Step", 0, 0);
    if (job.before_step_call) job.before_step_call(optimizer, step);
    const absl::Status enqueued = optimizer.Step(ArgumentsOf(job, step));
    ASSERT_TRUE(enqueued.ok()) << enqueued;
    if (!job.finish_late) finish();
    if (testing::Test::HasFatalFailure()) return;
  }
  if (job.finish_late && steps > 0) finish();
}

CommunicatorLevels MakeLevels(const TrainingJob& job, Rendezvous& rendezvous) {
  const int rank = rendezvous.rank();
  const auto wrap = [&](std::unique_ptr<Communicator> communicator) {
    return job.wrap ? job.wrap(std::move(communicator), rank) : std::move(communicator);
  };
  CommunicatorLevels levels;
  if (job.host_of_rank.empty()) {
    auto host = CreateInprocCommunicator(rendezvous, {.wait_deadline = job.options.wait_deadline});
    EXPECT_TRUE(host.ok()) << host.status();
    if (host.ok()) levels.host = wrap(*std::move(host));
    return levels;
  }
  const auto map = MapHosts(rendezvous, absl::StrCat(job.host_of_rank[rank]), absl::Minutes(1));
  EXPECT_TRUE(map.ok()) << map.status();
  if (!map.ok()) return levels;
  levels.map = *map;
  const std::vector<int>& ranks = map->hosts[map->host];
  std::vector<int> rail;
  for (const std::vector<int>& others : map->hosts) rail.push_back(others[map->local_rank]);
  levels.rendezvous.push_back(std::make_unique<GroupRendezvous>(rendezvous, ranks));
  levels.rendezvous.push_back(std::make_unique<GroupRendezvous>(rendezvous, rail));
  auto host = CreateInprocCommunicator(*levels.rendezvous[0],
                                       {.wait_deadline = job.options.wait_deadline, .rank_names = ranks});
  EXPECT_TRUE(host.ok()) << host.status();
  if (!host.ok()) return levels;
  Communicator* const other = host->get();
  auto network = CreateLandingCommunicator(*levels.rendezvous[1],
                                           {.wait_deadline = job.options.wait_deadline,
                                            .rank_names = rail,
                                            .other_failure = [other] { return other->AsyncStatus(); },
                                            .on_failure = [other](const absl::Status& why) { other->Abort(why); }});
  EXPECT_TRUE(network.ok()) << network.status();
  if (!network.ok()) return levels;
  levels.host = wrap(*std::move(host));
  levels.network = wrap(*std::move(network));
  return levels;
}

TrainingResult RunRank(const TrainingJob& job, CommunicatorLevels levels, Rendezvous& rendezvous, ComputeDevice* device,
                       const TrainRank& train) {
  TrainingResult result;
  const auto run = [&] {
    ASSERT_NE(levels.host, nullptr);
    OptimizerOptions options = job.options;
    options.micro_steps = job.micro_steps();
    auto optimizer = ShardedOptimizer::Create(options, job.parameters, std::move(levels), &rendezvous, device);
    ASSERT_TRUE(optimizer.ok()) << optimizer.status();
    const absl::Status initialized = (*optimizer)->Initialize([&](int p, int64_t begin, absl::Span<float> values) {
      for (size_t i = 0; i < values.size(); ++i) values[i] = job.initial_value(p, begin + i);
    });
    ASSERT_TRUE(initialized.ok()) << initialized;
    if (train) {
      train(job, **optimizer, &result.records);
    } else {
      Train(job, **optimizer, job.first_step, job.steps, &result.records);
    }
    if (job.after_steps) job.after_steps(**optimizer);
    const absl::StatusOr<OptimizerDigests> digests = (*optimizer)->Digests();
    ASSERT_TRUE(digests.ok()) << digests.status();
    result.digests = ToHex(*digests);
  };
  run();
  return result;
}

TrainingResult RunTrainingJob(const TrainingJob& job) {
  std::vector<TrainingResult> results(job.world_size);
  RunRankThreads(job.world_size, [&](Rendezvous& rendezvous) {
    results[rendezvous.rank()] = RunRank(job, MakeLevels(job, rendezvous), rendezvous);
  });
  for (const TrainingResult& result : results) EXPECT_EQ(result.digests, results[0].digests);
  return results[0];
}

TrainingResult RunReference(const TrainingJob& job) {
  shardstep_reference::Model model;
  std::vector<int64_t> elements;
  for (size_t p = 0; p < job.parameters.size(); ++p) {
    elements.push_back(*ElementCount(job.parameters[p]));
    std::vector<float> master;
    for (int64_t i = 0; i < elements[p]; ++i) master.push_back(TrainingJob::InitialValue(static_cast<int>(p), i));
    model.Add(ReferenceGroup(job.options.groups[job.parameters[p].group]), std::move(master));
  }
  TrainingResult result;
  for (int64_t step = 0; step < job.steps; ++step) {
    for (int p = 0; job.reference_settings && p < static_cast<int>(elements.size()); ++p) {
      model.SetGroup(p, ReferenceGroup({.rule = job.reference_settings(step)}));
    }
    std::vector<shardstep_reference::MicroBatch> gradients(job.micro_batches);
    std::vector<const shardstep_reference::MicroBatch*> micro_batches;
    for (int64_t j = 0; j < job.micro_batches; ++j) {
      for (int p = 0; p < static_cast<int>(elements.size()); ++p) {
        const bool unused = job.unused_last_parameter && p + 1 == static_cast<int>(elements.size());
        std::vector<uint16_t> values;
        for (int64_t i = 0; i < elements[p]; ++i) values.push_back(unused ? 0 : job.gradient(step, j, p, i).bits);
        gradients[j].push_back(std::move(values));
      }
      micro_batches.push_back(&gradients[j]);
    }
    const shardstep_reference::StepResult step_result =
        model.Step(micro_batches, {.learning_rate = 0.01 / (1.0 + step),
                                   .divisor = static_cast<double>(job.micro_batches),
                                   .max_norm = job.max_norm,
                                   .sum_group = job.options.sum_group,
                                   .rounding_seed = job.options.rounding_seed});
    StepRecord record;
    record.applied = step_result.applied;
    record.clip_factor = step_result.clip;
    if (step_result.applied) record.gradient_norm = step_result.norm;
    result.records.push_back(record);
  }
  result.digests = model.Digest();
  return result;
}

bool operator==(const TrainingResult& a, const TrainingResult& b) {
  return a.digests == b.digests && std::equal(a.records.begin(), a.records.end(), b.records.begin(), b.records.end(),
                                              [](const StepRecord& x, const StepRecord& y) {
                                                return x.applied == y.applied && x.gradient_norm == y.gradient_norm &&
                                                       x.clip_factor == y.clip_factor;
                                              });
}

}  // namespace shardstep

namespace shardstep_reference {

bool operator==(const Digests& a, const Digests& b) {
  return a.weights == b.weights && a.master == b.master && a.first_moment == b.first_moment &&
         a.second_moment == b.second_moment;
}

std::ostream& operator<<(std::ostream& out, const Digests& d) {
  return out << "weights " << d.weights << " master " << d.master << " moments " << d.first_moment << " "
             << d.second_moment;
}

}  // namespace shardstep_reference
