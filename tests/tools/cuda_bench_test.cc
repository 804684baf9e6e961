// The benchmark on GPUs that the host plays: production optimizers, communicators and kernels' bodies over fakes of
// CUDA and NCCL. Figures are only looked at for what follows from what.
#include "shardstep/tools/bench/cuda_bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/tests/comm/rank_threads.h"
#include "shardstep/tests/cuda/host_cuda_kernels.h"
#include "shardstep/tests/nccl/fake_nccl.h"

namespace shardstep {
namespace {

using ::testing::Each;
using ::testing::Gt;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

BenchOptions Parse(std::vector<const char*> flags) {
  for (const char* flag : {"--device=cuda", "--steps=2", "--warmup=1"}) flags.push_back(flag);
  const auto options = ParseBenchOptions(flags);
  EXPECT_TRUE(options.ok()) << options.status();
  return *options;
}

// A machine of `ranks` GPUs, or one that all ranks share.
struct Machine {
  explicit Machine(int world_size, int devices) : ranks(world_size), cuda({.devices = devices}) {}

  int ranks;
  FakeCuda cuda;
  FakeNccl nccl{cuda};
  HostCudaKernels real_kernels{cuda};
  CudaKernels* kernels = &real_kernels;
  bool has_nccl = true;
  std::function<void(CudaPlace&)> before;  ///< a run
  std::string printed;                     ///< by rank 0

  // The row of every rank, or the first error.
  absl::StatusOr<std::vector<CudaBenchRow>> Run(const BenchOptions& options) {
    std::vector<absl::StatusOr<CudaBenchRow>> results(ranks, absl::UnknownError("not run"));
    std::vector<std::ostringstream> outs(ranks);
    RunRankThreads(ranks, [&](Rendezvous& rendezvous) {
      const int rank = rendezvous.rank();
      const CudaBenchJob job = {.backend = {.api = &cuda, .kernels = kernels},
                                .nccl = has_nccl ? &nccl : nullptr,
                                .rendezvous = &rendezvous,
                                .make_host_levels = [&]() -> absl::StatusOr<CommunicatorLevels> {
                                  CommunicatorLevels levels;
                                  SHARDSTEP_ASSIGN_OR_RETURN(levels.host, CreateInprocCommunicator(rendezvous, {}));
                                  return levels;
                                },
                                .host_id = "host"};
      results[rank] = RunOne(options, job, outs[rank]);
      if (!results[rank].ok()) rendezvous.Fail(results[rank].status());
    });
    for (int rank = 1; rank < ranks; ++rank) EXPECT_EQ(outs[rank].str(), "");
    printed = outs[0].str();
    EXPECT_EQ(cuda.leaks(), "");
    EXPECT_THAT(cuda.misuses(), IsEmpty());
    EXPECT_THAT(nccl.problems(), IsEmpty());
    std::vector<CudaBenchRow> rows;
    for (const absl::StatusOr<CudaBenchRow>& result : results) {
      if (!result.ok()) return result.status();
      rows.push_back(*result);
    }
    return rows;
  }

  absl::StatusOr<CudaBenchRow> RunOne(const BenchOptions& options, const CudaBenchJob& job, std::ostream& out) const {
    SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<CudaPlace> place, CudaPlace::Create(options, job));
    if (before) before(*place);
    return RunCudaBench(options, job, *place, out);
  }
};

CudaBenchRow RunRow(Machine& machine, const BenchOptions& options) {
  const auto rows = machine.Run(options);
  EXPECT_TRUE(rows.ok()) << rows.status();
  return rows.ok() ? rows->front() : CudaBenchRow();
}

struct Case {
  std::string name;
  std::vector<const char*> flags;
  int ranks = 1;
  friend std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }
};

std::vector<Case> Cases() {
  return {
      {"OneRank", {"--model=flat:70000"}},
      {"OnePass", {"--model=flat:70000", "--clip=off", "--nonfinite=ignore"}},
      {"MicroSteps", {"--model=flat:70000", "--micro_steps=3"}},
      {"Split", {"--model=flat:70000", "--master=split"}},
      {"Lion", {"--model=flat:70000", "--rule=lion"}},
      {"Graph", {"--model=flat:70000", "--graph"}},
      {"GraphOfMicroSteps", {"--model=flat:70000", "--graph", "--micro_steps=2", "--rule=sgd"}},
      {"TwoByNccl", {"--model=flat:70000", "--bucket_bytes=40000"}, 2},
      {"ThreeByNccl", {"--model=flat:70000", "--bucket_bytes=40000", "--micro_steps=2", "--sum_group=2"}, 3},
      {"GraphOfTwo", {"--model=flat:70000", "--bucket_bytes=40000", "--graph"}, 2},
      {"TwoStaged", {"--model=flat:70000", "--bucket_bytes=40000", "--transport=staged"}, 2},
      {"OnePassByNccl", {"--model=flat:70000", "--clip=off", "--nonfinite=ignore", "--rule=lion"}, 2},
  };
}

class CudaBenchTest : public testing::TestWithParam<Case> {};

TEST_P(CudaBenchTest, EveryFigureIsThereAndNoWeightIsWrong) {
  const Case& c = GetParam();
  BenchOptions options = Parse(c.flags);
  options.check = true;
  Machine machine(c.ranks, c.ranks);
  const CudaBenchRow row = RunRow(machine, options);

  EXPECT_EQ(row.wrong, 0);
  EXPECT_EQ(row.blocking_calls, 0) << machine.printed;
  EXPECT_EQ(row.parameters, 70000);
  EXPECT_EQ(row.step.ranks, c.ranks);
  for (const auto* series : {&row.step_ms, &row.update_ms, &row.update.kernel_ms}) {
    EXPECT_THAT(*series, SizeIs(2));
    EXPECT_THAT(*series, Each(Gt(0)));
  }
  EXPECT_THAT(row.gradient_ms, SizeIs(2));
  EXPECT_THAT(row.copy_ms, SizeIs(4));
  EXPECT_THAT(row.wire_ms, SizeIs(c.ranks > 1 ? 2 : 0));
  EXPECT_EQ(row.norm.bytes > 0, row.step.two_passes);
  EXPECT_THAT(row.norm.kernel_ms, SizeIs(row.step.two_passes ? 2 : 0));
  EXPECT_THAT(row.norm.twin_ms, SizeIs(row.step.two_passes ? 2 : 0));
  const bool has_twin = row.step.update == UpdateKind();
  EXPECT_EQ(row.floor_has_twins, has_twin);
  EXPECT_THAT(row.update.twin_ms, SizeIs(has_twin ? 2 : 0));
  EXPECT_EQ(std::isfinite(row.update.of_twin()), has_twin);
  EXPECT_GT(row.floor_ms(), 0);
  EXPECT_GT(row.floor_ratio(), 0);
  EXPECT_GT(row.update_of_copy(), 0);
  EXPECT_GT(row.memory_bytes, 0);
  // Nothing but the optimizer was allocated in between; allocations are rounded up.
  EXPECT_NEAR(row.memory_bytes / row.estimated_bytes, 1, 0.05);
  EXPECT_THAT(machine.printed, HasSubstr(absl::StrCat("70000 parameters in 1 tensors")));
}

INSTANTIATE_TEST_SUITE_P(All, CudaBenchTest, testing::ValuesIn(Cases()),
                         [](const auto& test) { return test.param.name; });

TEST(CudaBenchTest, RanksMayShareADeviceWhenStaged) {
  Machine machine(2, /*devices=*/1);
  const CudaBenchRow row = RunRow(machine, Parse({"--model=flat:70000", "--transport=staged", "--check"}));
  EXPECT_EQ(row.wrong, 0);
  EXPECT_EQ(row.blocking_calls, 0);
  EXPECT_NEAR(row.memory_bytes / row.estimated_bytes, 1, 0.05);

  Machine by_nccl(2, 1);
  EXPECT_EQ(by_nccl.Run(Parse({"--model=flat:70000"})).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(CudaBenchTest, NcclsOwnSumsAreMeasuredToo) {
  Machine machine(2, 2);
  const CudaBenchRow row = RunRow(machine, Parse({"--model=flat:70000", "--exchange=nccl_reduce_scatter"}));
  EXPECT_EQ(row.exchange, "nccl_reduce_scatter");
  EXPECT_EQ(CountMemoryCost(row.step).total(), 2 + 8 + 26);
  EXPECT_GT(machine.nccl.calls("ReduceScatterSum"), 0);
}

// ---- What is planted is found
// ----------------------------------------------------------------------------------------

// Kernels whose updates of one parameter in a step are wrong.
class WrongKernels : public HostCudaKernels {
 public:
  explicit WrongKernels(FakeCuda& cuda) : HostCudaKernels(cuda), cuda_(cuda) {}
  int Update(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream) override {
    const int result = HostCudaKernels::Update(args, sum, stream);
    auto* const weights = static_cast<Bf16*>(args.weights);
    cuda_.Enqueue(stream, "wrong", {}, [weights] { weights[17].bits ^= 1; });
    return result;
  }

 private:
  FakeCuda& cuda_;
};

TEST(CudaBenchTest, CheckFindsAWrongWeight) {
  Machine machine(1, 1);
  WrongKernels kernels(machine.cuda);
  machine.kernels = &kernels;
  EXPECT_EQ(RunRow(machine, Parse({"--model=flat:5000", "--check"})).wrong, 1);
  EXPECT_EQ(RunRow(machine, Parse({"--model=flat:5000"})).wrong, std::nullopt);
}

// Kernels that wait for the device before they return.
class BlockingKernels : public HostCudaKernels {
 public:
  using HostCudaKernels::HostCudaKernels;
  CudaApi* api = nullptr;
  int Decide(const DecideWords& words, CudaStreamHandle stream) override {
    const int result = HostCudaKernels::Decide(words, stream);
    api->StreamSynchronize(stream);
    return result;
  }
};

TEST(CudaBenchTest, CallsThatBlockAreCounted) {
  Machine machine(1, 1);
  BlockingKernels kernels(machine.cuda);
  machine.kernels = &kernels;
  machine.before = [&](CudaPlace& place) { kernels.api = &place.api(); };
  // A step of warm-up and two rounds.
  EXPECT_EQ(RunRow(machine, Parse({"--model=flat:5000"})).blocking_calls, 3);
}

// Kernels that note what they are launched on, but for where slices lie.
class NotingKernels : public HostCudaKernels {
 public:
  using HostCudaKernels::HostCudaKernels;
  int Reduce(const CudaReduce& args, const CudaSumSchedule& sum, CudaStreamHandle stream) override {
    Note(&kernels, TextOf(args, sum));
    return HostCudaKernels::Reduce(args, sum, stream);
  }
  int ReduceTwin(const CudaReduce& args, const CudaSumSchedule& sum, CudaStreamHandle stream) override {
    Note(&twins, TextOf(args, sum));
    return HostCudaKernels::ReduceTwin(args, sum, stream);
  }
  int Update(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream) override {
    Note(&kernels, TextOf(args, sum));
    return HostCudaKernels::Update(args, sum, stream);
  }
  int UpdateTwin(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream) override {
    Note(&twins, TextOf(args, sum));
    return HostCudaKernels::UpdateTwin(args, sum, stream);
  }
  std::set<std::string> kernels, twins;  ///< launches, each once

 private:
  void Note(std::set<std::string>* launches, const std::string& text) {
    const MutexLock lock(&mutex_);
    launches->insert(text);
  }
  static std::string Sum(const CudaSumSchedule& sum) {
    return absl::StrCat("accumulator ", absl::Hex(reinterpret_cast<uintptr_t>(sum.accumulator)), ", additions ",
                        sum.additions_count, ", plain ", sum.plain);
  }
  static std::string TextOf(const CudaReduce& args, const CudaSumSchedule& sum) {
    return absl::StrCat("Reduce of ", args.segments.blocks, " blocks, ", Sum(sum), ", to ",
                        absl::Hex(reinterpret_cast<uintptr_t>(args.accumulator_out)), ", norm ", args.take_norm,
                        ", scan ", args.scan != nullptr);
  }
  static std::string TextOf(const CudaUpdate& args, const CudaSumSchedule& sum) {
    std::string text = absl::StrCat("Update of ", args.segments.blocks, " blocks, ", Sum(sum));
    for (const void* state :
         std::vector<const void*>{args.master, args.first_moment, args.second_moment, args.weights}) {
      absl::StrAppend(&text, ", ", absl::Hex(reinterpret_cast<uintptr_t>(state)));
    }
    return text;
  }

  Mutex mutex_;
};

TEST(CudaBenchTest, TheFloorsTwinsAreLaunchedAsAStepsKernelsAre) {
  struct Mode {
    int ranks;
    std::vector<const char*> flags;
  };
  for (const Mode& mode : std::vector<Mode>{{1, {"--model=flat:20000", "--bucket_bytes=8192"}},
                                            {1, {"--model=flat:20000", "--micro_steps=3"}},
                                            {1, {"--model=flat:20000", "--clip=off", "--nonfinite=ignore"}},
                                            {2, {"--model=flat:20000", "--bucket_bytes=8192"}},
                                            {2, {"--model=flat:20000", "--micro_steps=2"}},
                                            {2, {"--model=flat:20000", "--exchange=nccl_reduce_scatter"}},
                                            {2, {"--model=flat:20000", "--clip=off", "--nonfinite=ignore"}}}) {
    SCOPED_TRACE(absl::StrCat(mode.ranks, " ranks, ", absl::StrJoin(mode.flags, " ")));
    Machine machine(mode.ranks, mode.ranks);
    NotingKernels kernels(machine.cuda);
    machine.kernels = &kernels;
    RunRow(machine, Parse(mode.flags));
    EXPECT_THAT(kernels.twins, testing::Not(IsEmpty()));
    EXPECT_EQ(kernels.kernels, kernels.twins);
  }
}

// ---- Refusals
// ---------------------------------------------------------------------------------------------------------

TEST(CudaBenchTest, WithoutNccl) {
  Machine two(2, 2);
  two.has_nccl = false;
  const absl::Status refused = two.Run(Parse({"--model=flat:5000"})).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("--transport=staged"));
  EXPECT_EQ(two.cuda.calls("Malloc"), 0);

  Machine one(1, 1);
  one.has_nccl = false;
  EXPECT_EQ(RunRow(one, Parse({"--model=flat:5000", "--check"})).wrong, 0);
}

TEST(CudaBenchTest, GraphsAreRefusedWhenStaged) {
  Machine machine(2, 2);
  EXPECT_EQ(machine.Run(Parse({"--model=flat:5000", "--graph", "--transport=staged"})).status().code(),
            absl::StatusCode::kUnimplemented);
}

TEST(CudaBenchTest, NoDevice) {
  FakeCuda none({.devices = 0});
  const absl::Status status = CheckForGpus(none);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("cudaErrorNoDevice"));
  FakeCuda one;
  EXPECT_TRUE(CheckForGpus(one).ok());
  one.FailCall("GetDeviceCount", 1, CudaApi::kInsufficientDriver);
  EXPECT_THAT(std::string(CheckForGpus(one).message()), HasSubstr("cudaErrorInsufficientDriver"));
}

TEST(CudaBenchTest, AnOrdinalThatThereIsNot) {
  Machine machine(1, 1);
  const absl::Status status = machine.Run(Parse({"--model=flat:5000", "--gpu=3"})).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(machine.cuda.calls("Malloc"), 0);
}

TEST(CudaBenchTest, TooLittleMemory) {
  Machine machine(1, 1);
  const absl::Status status = machine.Run(Parse({"--model=flat:100000000"})).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

}  // namespace
}  // namespace shardstep
