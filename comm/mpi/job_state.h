#ifndef SHARDSTEP_COMM_MPI_JOB_STATE_H_
#define SHARDSTEP_COMM_MPI_JOB_STATE_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "shardstep/comm/mutex.h"
#include "shardstep/comm/status.h"

namespace shardstep {

/// What one rank knows of its job, whether it has failed and who is away, and the place where its threads wait for
/// other ranks. Knows no MPI. All threads.
class JobState {
 public:
  /// `rank` of `ranks`.
  JobState(int rank, int ranks);

  /// Guards whatever the conditions of waits look at. Change it under this mutex, then call Changed.
  Mutex& mutex() { return mutex_; }
  void Changed() { changed_.notify_all(); }

  /// Ends every present and future wait with `failure`. True when it is the first; later ones change nothing.
  bool Fail(const absl::Status& failure);
  /// OK, or the first failure.
  absl::Status failure() const;
  bool failed() const { return failed_.load(); }

  /// `rank` is away for at most `duration` from now; zero ends it.
  void SetAway(int rank, absl::Duration duration);
  /// The last moment, at most `now_ns`, at which any rank was away; 0 if none ever was.
  int64_t LastAwayNs(int64_t now_ns) const;
  /// For how long from `now_ns` some rank other than this one may be away.
  absl::Duration OthersAway(int64_t now_ns) const;

  struct Wait {
    /// Counts from the later of the call and the last moment any rank was away.
    absl::Duration deadline;
    /// After the deadline, for somebody who knows better to say who is absent.
    absl::Duration grace = absl::ZeroDuration();
    /// What messages call the operation.
    absl::FunctionRef<std::string()> operation;
    /// The ranks that have not arrived, none ends the wait. Called with the mutex held.
    absl::FunctionRef<std::vector<int>()> absent;
  };
  /// Blocks. After a failure that failure, at once and always. DeadlineExceeded names operation and absent ranks.
  absl::Status Await(const Wait& wait);
  /// Threads in Await.
  int waiting() const;

 private:
  const int rank_;
  mutable Mutex mutex_;
  std::condition_variable changed_;
  std::atomic<bool> failed_ = false;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::vector<int64_t> away_until_ns_ ABSL_GUARDED_BY(mutex_);  ///< by rank; past: when it was last away
  int waiting_ ABSL_GUARDED_BY(mutex_) = 0;

  int64_t LastAwayLocked(int64_t now_ns) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_MPI_JOB_STATE_H_
