#ifndef SHARDSTEP_TESTS_OPTIMIZER_TESTED_KERNELS_H_
#define SHARDSTEP_TESTS_OPTIMIZER_TESTED_KERNELS_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "kernel_case.h"
#include "shardstep/comm/cuda/cuda_memory.h"
#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/optimizer/shard_kernels.h"
#include "shardstep/tests/cuda/host_cuda_kernels.h"

namespace shardstep {

/// An implementation of ShardKernels with a stream of its kind, for tests that judge all of them. A launch is over when
/// its call returns.
class TestedKernels {
 public:
  /// The CPU's targets that can run here, and "CUDA": its kernels' bodies on the host.
  static std::vector<std::string> Names();
  static std::unique_ptr<TestedKernels> Create(const std::string& name, int threads = 1);
  virtual ~TestedKernels() = default;

  absl::Status Reduce(const ReduceArgs& args);
  absl::Status Update(const UpdateArgs& args);
  absl::Status Digest(const DigestArgs& args);
  /// Runs both passes on copies of `start` and on the reference, and compares every bit.
  ::testing::AssertionResult JudgedByReference(const KernelCase& start);

  virtual ShardKernels& kernels() = 0;
  virtual Stream& stream() = 0;
  /// Destinations of an update.
  virtual int max_destinations() const = 0;
};

/// Of CUDA.
class HostCuda : public TestedKernels {
 public:
  explicit HostCuda(const HostCudaKernelsOptions& options = {});

  ShardKernels& kernels() override { return *kernels_; }
  CudaStream& stream() override { return *stream_; }
  int max_destinations() const override { return 1; }

  FakeCuda& cuda() { return cuda_; }
  Memory& memory() { return *memory_; }

 private:
  FakeCuda cuda_;
  HostCudaKernels launches_;
  std::unique_ptr<Memory> memory_;
  std::unique_ptr<ShardKernels> kernels_;
  std::unique_ptr<CudaStream> stream_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_OPTIMIZER_TESTED_KERNELS_H_
