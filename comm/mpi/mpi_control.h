#ifndef SHARDSTEP_COMM_MPI_MPI_CONTROL_H_
#define SHARDSTEP_COMM_MPI_MPI_CONTROL_H_

/// For the sources of comm/mpi/ only.

#include <functional>
#include <map>
#include <vector>

#include "shardstep/comm/mpi/mpi_communicator.h"
#include "shardstep/comm/mpi/mpi_progress.h"
#include "shardstep/comm/mpi/small_reduction.h"

namespace shardstep {

/// What ranks tell each other beside the data: why the job has failed, who is away, and the small all-reduces.
class MpiControl : public MpiProgress::Listener {
 public:
  /// `rank` of `ranks` tell each other of failures and absence; of these `members` reduce, the first of them adds up.
  MpiControl(int rank, int ranks, std::vector<int> members, const MpiCommunicatorOptions& options, JobState* job);

  /// Before `progress` starts, which must outlive what is called here.
  void Attach(MpiProgress* progress) { progress_ = progress; }

  /// Any thread.
  void Abort(const absl::Status& reason);
  void SetAway(absl::Duration duration);
  /// Blocks. One thread at a time.
  absl::Status AllReduceSmall(SmallReduction* reduction);

  void Receive(int rank, const SmallMessage& message) override;
  void Look() override;
  void Broken(const absl::Status& status) override { job_->Fail(status); }

 private:
  struct Outcome {
    SmallReduction result;
    std::string absent;  ///< not empty: there is no result
  };

  void TellOthers(const SmallMessage& message);
  void SpreadFailure();
  void SpreadReduction(const ReductionHub::Outcome& decided);
  void KeepOutcome(int64_t number, Outcome outcome);

  const int rank_;
  const int ranks_;
  const std::vector<int> members_;
  const MpiCommunicatorOptions options_;
  JobState* const job_;
  MpiProgress* progress_ = nullptr;

  // Of the progress thread.
  bool failure_heard_ = false;  ///< from another rank, who told everyone
  bool failure_spread_ = false;

  ReductionHub hub_;                     ///< of the first member; guarded by job_->mutex()
  std::map<int64_t, Outcome> outcomes_;  ///< by number, until they are taken; guarded by job_->mutex()
  int64_t reductions_ = 0;               ///< of the thread that reduces
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_MPI_MPI_CONTROL_H_
