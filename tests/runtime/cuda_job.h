#ifndef SHARDSTEP_TESTS_RUNTIME_CUDA_JOB_H_
#define SHARDSTEP_TESTS_RUNTIME_CUDA_JOB_H_

#include <string>

#include "shardstep/comm/nccl/nccl_communicator.h"
#include "shardstep/tests/cuda/fake_cuda.h"
#include "shardstep/tests/nccl/fake_nccl.h"
#include "shardstep/tests/runtime/training_job.h"

namespace shardstep {

/// A TrainingJob on GPUs that the host plays: the production communicators, streams, kernels' bodies, plan and
/// scheduler, over fakes of CUDA and NCCL. Each rank has a device of its own.
struct CudaJob {
  enum class Transport {
    kNccl,    ///< one level
    kStaged,  ///< one level, through shared memory of the host
    kNcclOnTwoLevels,
    kStagedOnTwoLevels,
  };

  TrainingJob job;  ///< host_of_rank is needed by two levels, and by no other
  Transport transport = Transport::kNccl;
  FakeCudaOptions cuda;
  FakeNcclOptions nccl;
  NcclExchange exchange = NcclExchange::kExact;
  int landing_buckets = 3;
  uint64_t kernel_order_seed = 1;
  /// The steps, but for the first, are taken by a graph that was captured before.
  bool by_graph = false;
  /// Whether the trainer uses weights once more in step `step`, after all gradients; empty: never.
  std::function<bool(int64_t step)> reads_weights_late;
  /// Called once a rank has its optimizer, with what its device had allocated before.
  std::function<void(FakeCuda& cuda, ShardedOptimizer& optimizer, int64_t bytes_before)> created;
  /// Called with the fake before any rank starts, and once all are done.
  std::function<void(FakeCuda&)> before, after;
};

/// As RunTrainingJob. Besides, nothing may be left on the devices, no call misused, and no call of the runtime has
/// blocked the host between the first GradientWritable of a step and its FinishStep.
TrainingResult RunCudaJob(const CudaJob& cuda_job);

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_RUNTIME_CUDA_JOB_H_
