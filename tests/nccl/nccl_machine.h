#ifndef SHARDSTEP_TESTS_NCCL_NCCL_MACHINE_H_
#define SHARDSTEP_TESTS_NCCL_NCCL_MACHINE_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shardstep/comm/cuda/cuda_memory.h"
#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/comm/nccl/nccl_communicator.h"
#include "shardstep/tests/comm/contract_device.h"
#include "shardstep/tests/comm/rank_threads.h"
#include "shardstep/tests/nccl/fake_nccl.h"

namespace shardstep {

/// A machine with a GPU for each rank, and NCCL among them. Ranks are threads.
class NcclMachine {
 public:
  explicit NcclMachine(int world_size, const FakeNcclOptions& nccl_options = {}, FakeCudaOptions cuda_options = {})
      : cuda(WithDevices(cuda_options, world_size)), nccl(cuda, nccl_options), world_size_(world_size) {
    for (int rank = 0; rank < world_size; ++rank) {
      auto memory = CreateCudaMemory(device(rank));
      EXPECT_TRUE(memory.ok()) << memory.status();
      memories_.push_back(memory.ok() ? *std::move(memory) : nullptr);
    }
  }

  CudaDeviceRef device(int rank) { return {&cuda, rank}; }
  Memory& memory(int rank) { return *memories_[static_cast<size_t>(rank)]; }

  /// Runs `body` as every rank.
  void Run(const std::function<void(Rendezvous&)>& body) { RunRankThreads(world_size_, body); }

  /// Collective: a communicator with a rendezvous of its own, which stays until the machine goes. `mine` is where the
  /// test's ranks meet.
  absl::StatusOr<std::unique_ptr<Communicator>> Create(Rendezvous& mine, const NcclOptions& options) {
    return CreateNcclCommunicator(nccl, device(mine.rank()), memory(mine.rank()), OwnRendezvous(mine), options);
  }

  Rendezvous& OwnRendezvous(Rendezvous& mine) {
    if (mine.rank() == 0) groups_.push_back(std::make_unique<ThreadRendezvousGroup>(world_size_));
    EXPECT_TRUE(mine.AllGatherBytes("group", "", absl::Minutes(1)).ok());
    auto joined = groups_.back()->Join(mine.rank());
    EXPECT_TRUE(mine.AllGatherBytes("joined", "", absl::Minutes(1)).ok());
    const MutexLock lock(&mutex_);
    joined_.push_back(std::move(joined));
    return *joined_.back();
  }

  /// After all communicators are gone: nothing is left, and nothing was wrong but `problems`.
  void ExpectClean(const testing::Matcher<std::vector<std::string>>& problems = testing::IsEmpty()) {
    memories_.clear();
    EXPECT_EQ(nccl.live(), 0);
    EXPECT_EQ(cuda.leaks(), "");
    EXPECT_THAT(nccl.problems(), problems);
    EXPECT_THAT(cuda.misuses(), testing::IsEmpty());
  }

  FakeCuda cuda;
  FakeNccl nccl;

 private:
  static FakeCudaOptions WithDevices(FakeCudaOptions options, int devices) {
    options.devices = devices;
    return options;
  }

  const int world_size_;
  std::vector<std::unique_ptr<Memory>> memories_;
  std::vector<std::unique_ptr<ThreadRendezvousGroup>> groups_;
  Mutex mutex_;
  std::vector<std::unique_ptr<Rendezvous>> joined_ ABSL_GUARDED_BY(mutex_);
};

/// With a short heartbeat, else the defaults.
inline NcclOptions QuickNccl(absl::Duration wait_deadline = absl::Minutes(1)) {
  return {.wait_deadline = wait_deadline, .heartbeat = absl::Milliseconds(5)};
}

/// A GPU of such a machine, for the contract suites.
class NcclContractDevice : public ContractDevice {
 public:
  NcclContractDevice(NcclMachine& machine, int rank) : machine_(machine), rank_(rank) {}

  std::unique_ptr<Stream> MakeStream() override {
    auto stream = CudaStream::Create(machine_.device(rank_), "test");
    EXPECT_TRUE(stream.ok()) << stream.status();
    return stream.ok() ? *std::move(stream) : nullptr;
  }
  std::unique_ptr<Stream> MakeCallerStream() override { return MakeStream(); }
  void Enqueue(Stream& stream, absl::string_view name, HostStream::Work work) override {
    auto& cuda_stream = static_cast<CudaStream&>(stream);
    const absl::Status enqueued = cuda_stream.Enqueue(name, [&](CudaStreamHandle handle) {
      return machine_.cuda.Enqueue(handle, std::string(name), {},
                                   [&cuda_stream, work = std::move(work)] { cuda_stream.Fail(work()); });
    });
    EXPECT_TRUE(enqueued.ok()) << enqueued;
  }
  Memory& memory() override { return machine_.memory(rank_); }
  NcclMachine& machine() { return machine_; }

 private:
  NcclMachine& machine_;
  const int rank_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_NCCL_NCCL_MACHINE_H_
