// What a baseline's step does to memory: whether malloc keeps what MPI frees, and whether the estimate holds.

#include <malloc.h>
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "shardstep/tests/comm/mpi_main.h"
#include "shardstep/tools/bench/allocator.h"
#include "shardstep/tools/bench/bench_model.h"
#include "shardstep/tools/bench/mpi_baselines.h"

namespace shardstep {
namespace {

// Of which MPI's own buffers are far larger than what glibc keeps by itself.
constexpr int64_t kElements = 12 << 20;
constexpr int64_t kPageBytes = 4096;
// Open MPI's queues, and what is shared among the ranks of a host.
constexpr int64_t kSmallThingsBytes = 32 << 20;

MpiRendezvous*& Job() {
  static MpiRendezvous* job = nullptr;
  return job;
}

BenchOptions Options(std::optional<double> max_norm) {
  BenchOptions options;
  options.parameters = MakeBenchModel(absl::StrCat("flat:", kElements)).value();
  options.max_norm = max_norm;
  return options;
}

std::unique_ptr<MpiBaseline> Create(Baseline baseline, const BenchOptions& options) {
  auto created = MpiBaseline::Create(baseline, options);
  EXPECT_TRUE(created.ok()) << created.status();
  return created.ok() ? *std::move(created) : nullptr;
}

int64_t PageFaults() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

// Of all ranks, after one that has got used to the allocator.
int64_t PageFaultsOfAStep(MpiBaseline& baseline) {
  EXPECT_TRUE(baseline.Step().ok());
  const int64_t before = PageFaults();
  EXPECT_TRUE(baseline.Step().ok());
  const auto all = Job()->AllGatherBytes("page faults", absl::StrCat(PageFaults() - before), absl::Minutes(1));
  EXPECT_TRUE(all.ok()) << all.status();
  int64_t faults = 0;
  for (const std::string& of_rank : all.value_or(std::vector<std::string>())) faults += std::atoll(of_rank.c_str());
  return faults;
}

TEST(AllocatorTest, KeepsWhatMpiFreesOrNotAsOftenAsItIsAsked) {
  const std::unique_ptr<MpiBaseline> baseline = Create(Baseline::kFp32, Options(std::nullopt));
  ASSERT_NE(baseline, nullptr);
  // Whichever rank it is that sums up.
  const int64_t pages = kElements * static_cast<int64_t>(sizeof(float)) / kPageBytes;
  for (int time = 0; time < 3; ++time) {
    SCOPED_TRACE(time);
    SetAllocator(Allocator::kDefault);
    EXPECT_GE(PageFaultsOfAStep(*baseline), pages) << "what MPI receives in is not touched for the first time";
    SetAllocator(Allocator::kKeeps);
    EXPECT_LE(PageFaultsOfAStep(*baseline), pages / 100);
  }
  SetAllocator(Allocator::kDefault);
}

int64_t StatusBytes(const std::string& name) {
  int64_t kib = 0;
  std::FILE* file = std::fopen("/proc/self/status", "r");
  char line[256];
  while (std::fgets(line, sizeof(line), file) != nullptr) {
    if (std::string(line).rfind(name + ":", 0) == 0) kib = std::atoll(line + name.size() + 1);
  }
  std::fclose(file);
  return kib * 1024;
}

// VmHWM begins again at what is resident now.
void ResetPeak() {
  std::FILE* file = std::fopen("/proc/self/clear_refs", "w");
  ASSERT_NE(file, nullptr);
  std::fputs("5", file);
  std::fclose(file);
}

void ExpectEstimateHolds(Baseline baseline, std::optional<double> max_norm) {
  SCOPED_TRACE(absl::StrCat("baseline ", static_cast<int>(baseline), max_norm ? ", clip" : ", no clip"));
  malloc_trim(0);
  ResetPeak();
  const int64_t before = StatusBytes("VmRSS");
  const BenchOptions options = Options(max_norm);
  const std::unique_ptr<MpiBaseline> created = Create(baseline, options);
  ASSERT_NE(created, nullptr);
  for (int step = 0; step < 2; ++step) ASSERT_TRUE(created->Step().ok());
  const int64_t added = StatusBytes("VmHWM") - before;
  const int64_t estimate = MpiBaseline::EstimateBytes(baseline, options, Job()->world_size());
  EXPECT_LE(added, estimate + kSmallThingsBytes);
  EXPECT_GE(added, estimate / 2) << "an estimate that says nothing";
}

TEST(MpiBaselinesMemoryTest, EstimateHoldsWhateverTheAllocator) {
  for (const Allocator allocator : {Allocator::kDefault, Allocator::kKeeps}) {
    SetAllocator(allocator);
    for (const Baseline baseline : kAllBaselines) ExpectEstimateHolds(baseline, std::nullopt);
    ExpectEstimateHolds(Baseline::kPointToPoint, 1.0);
  }
  SetAllocator(Allocator::kDefault);
}

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) {
  return shardstep::MpiTestMain(argc, argv, [](shardstep::MpiRendezvous& owner) { shardstep::Job() = &owner; });
}
