#ifndef SHARDSTEP_TESTS_COMM_STAGED_MACHINE_H_
#define SHARDSTEP_TESTS_COMM_STAGED_MACHINE_H_

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shardstep/comm/cuda/cuda_memory.h"
#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/comm/staged/staged_communicator.h"
#include "shardstep/tests/comm/landing_communicator.h"
#include "shardstep/tests/comm/rank_threads.h"
#include "shardstep/tests/cuda/fake_cuda.h"

namespace shardstep {

using CreateInner =
    std::function<absl::StatusOr<std::unique_ptr<Communicator>>(Rendezvous&, absl::Duration wait_deadline)>;

/// Shared memory of threads: does not join hosts.
inline absl::StatusOr<std::unique_ptr<Communicator>> CreateInprocInner(Rendezvous& rendezvous,
                                                                       absl::Duration wait_deadline) {
  return CreateInprocCommunicator(rendezvous, {.wait_deadline = wait_deadline, .host_id = "test"});
}

/// The network of tests: joins hosts.
inline absl::StatusOr<std::unique_ptr<Communicator>> CreateLandingInner(Rendezvous& rendezvous,
                                                                        absl::Duration wait_deadline) {
  return CreateLandingCommunicator(rendezvous, {.wait_deadline = wait_deadline});
}

/// Ranks that are threads, with a GPU each or all with one, and no NCCL.
class StagedMachine {
 public:
  StagedMachine(int world_size, CreateInner create_inner, FakeCudaOptions options = {})
      : cuda(options), world_size_(world_size), create_inner_(std::move(create_inner)) {
    for (int rank = 0; rank < world_size; ++rank) {
      auto memory = CreateCudaMemory({&cuda, device(rank)});
      EXPECT_TRUE(memory.ok()) << memory.status();
      memories_.push_back(memory.ok() ? *std::move(memory) : nullptr);
    }
  }

  int device(int rank) const { return rank % devices(); }
  Memory& memory(int rank) { return *memories_[static_cast<size_t>(rank)]; }

  void Run(const std::function<void(Rendezvous&)>& body) { RunRankThreads(world_size_, body); }

  /// Collective.
  absl::StatusOr<std::unique_ptr<Communicator>> Create(Rendezvous& rendezvous, absl::Duration wait_deadline,
                                                       int landing_buckets = 3) {
    SHARDSTEP_ASSIGN_OR_RETURN(auto inner, create_inner_(rendezvous, wait_deadline));
    return CreateAround(rendezvous, std::move(inner), landing_buckets);
  }
  absl::StatusOr<std::unique_ptr<Communicator>> CreateAround(Rendezvous& rendezvous,
                                                             std::unique_ptr<Communicator> inner,
                                                             int landing_buckets = 3) {
    const int rank = rendezvous.rank();
    return CreateStagedCommunicator({&cuda, device(rank)}, memory(rank), rendezvous, std::move(inner),
                                    {.landing_buckets = landing_buckets});
  }

  /// After all communicators and streams are gone.
  void ExpectClean() {
    memories_.clear();
    EXPECT_EQ(cuda.leaks(), "");
    EXPECT_THAT(cuda.misuses(), testing::IsEmpty());
  }

  FakeCuda cuda;

 private:
  int devices() const {
    int count = 0;
    const_cast<FakeCuda&>(cuda).GetDeviceCount(&count);
    return count;
  }

  const int world_size_;
  const CreateInner create_inner_;
  std::vector<std::unique_ptr<Memory>> memories_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_COMM_STAGED_MACHINE_H_
