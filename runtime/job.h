#ifndef SHARDSTEP_RUNTIME_JOB_H_
#define SHARDSTEP_RUNTIME_JOB_H_

/// For trainers that do not choose a communicator themselves:
///
///   Job job = *JoinJob({.meet = JobMeeting::kMpi}, options);
///   auto optimizer = *ShardedOptimizer::Create(options, parameters, std::move(job.communicators),
///                                              job.rendezvous.get(), job.device.get());

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "shardstep/comm/levels.h"
#include "shardstep/comm/rendezvous.h"
#include "shardstep/comm/status.h"
#include "shardstep/runtime/compute_device.h"
#include "shardstep/runtime/options.h"

namespace shardstep {

/// How the ranks of a job find each other.
enum class JobMeeting {
  kAlone,  ///< there is only this one
  kTcp,    ///< by an id that rank 0 created and told the others, or at an address that all know
  kMpi     ///< they were started by mpirun
};

/// What gradients and weights travel by, between GPUs.
enum class GpuTransport {
  kNccl,               ///< NCCL, each rank with a GPU of its own
  kNcclTwoLevels,      ///< NCCL within hosts and between them: what sum_group and host_sum save by
  kNcclReduceScatter,  ///< NCCL's own sums, rounded to bf16 on every hop: other bits, and every record says so
  kStaged              ///< through the host's memory, without NCCL; ranks may share a GPU
};

struct JobOptions {
  JobMeeting meet = JobMeeting::kAlone;
  /// kTcp: an id of CreateJobId (comm/tcp/job_id.h), or "host:port" of rank 0, which listens there.
  std::string id;
  int rank = 0;        ///< kTcp
  int world_size = 1;  ///< kTcp
  /// "cpu", or "cuda": a GPU for every rank by its place on its host, or "cuda:1": that one.
  std::string device = "cpu";
  /// cuda: the trainer's cudaStream_t, not the legacy default stream; outlives the job.
  void* compute_stream = nullptr;
  GpuTransport gpu_transport = GpuTransport::kNccl;
  /// Where ranks of other hosts reach this one, a name or an address without a port; empty: its name.
  std::string host_address;
  /// How long ranks wait for each other to meet. Positive.
  absl::Duration deadline = absl::Minutes(5);
};

/// What ShardedOptimizer::Create takes, and its members outlive the optimizer. Destroy what it was given to first.
struct Job {
  std::unique_ptr<Rendezvous> rendezvous;
  std::unique_ptr<ComputeDevice> device;
  int gpu = -1;  ///< as CUDA numbers the devices of this process; -1: on CPUs
  CommunicatorLevels communicators;
};

/// Collective. Of `options` those that communicators are made for: wait_deadline, weights, max_message_bytes.
/// InvalidArgument names the field; Unimplemented: kMpi in a build without MPI (SHARDSTEP_WITH_MPI);
/// FailedPrecondition: ranks of several hosts on CPUs, without MPI; all errors of what makes the parts.
absl::StatusOr<Job> JoinJob(const JobOptions& job, const OptimizerOptions& options);

/// What the job of a joint decision (joint_decision.h) is joined with: `members` are the options of its optimizers.
OptimizerOptions OptionsOfJointDecision(const std::vector<const OptimizerOptions*>& members);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_JOB_H_
