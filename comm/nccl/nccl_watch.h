#ifndef SHARDSTEP_COMM_NCCL_NCCL_WATCH_H_
#define SHARDSTEP_COMM_NCCL_NCCL_WATCH_H_

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/comm/mutex.h"
#include "shardstep/comm/nccl/heartbeat.h"
#include "shardstep/comm/nccl/nccl_link.h"
#include "shardstep/comm/nccl/operation_queue.h"
#include "shardstep/comm/rendezvous.h"

namespace shardstep {

/// Why a communicator is dead: the first reason stays. Streams that it was used on share it. Threads: any.
class NcclFailure : public StreamFailure {
 public:
  /// `mine` for this rank, `told` for the others. False: there is a reason already.
  bool Set(const absl::Status& mine, const absl::Status& told);
  absl::Status status() const override;
  absl::Status told() const;

 private:
  mutable Mutex mutex_;
  absl::Status mine_ ABSL_GUARDED_BY(mutex_);
  absl::Status told_ ABSL_GUARDED_BY(mutex_);
};

struct NcclWatchOptions {
  absl::Duration wait_deadline;
  absl::Duration setup_deadline;
  absl::Duration heartbeat;
  std::vector<int> rank_names;
  std::function<absl::Status()> other_failure;  ///< these as in NcclOptions
  std::function<void(const absl::Status&)> on_failure;
  std::function<absl::Duration()> other_away;
  std::function<void(absl::Duration)> on_away;
};

/// The thread that looks after a communicator. Once per heartbeat it asks NCCL for asynchronous errors and the device
/// for what it has passed, and meets the watches of all other ranks in the rendezvous: so everyone learns of the
/// failure of one, and when an operation has passed its deadline, everyone knows who did not come. On a failure it
/// revokes the link. Threads: any.
class NcclWatch {
 public:
  /// All of them outlive it.
  NcclWatch(const CudaDeviceRef& device, Rendezvous& rendezvous, NcclLink& link, OperationQueue& queue,
            std::shared_ptr<NcclFailure> failure, const NcclWatchOptions& options);
  /// Leaves: the others meet no more, and know which operations will never be whole.
  ~NcclWatch();
  NcclWatch(const NcclWatch&) = delete;
  NcclWatch& operator=(const NcclWatch&) = delete;

  /// This rank is dead of `status`; the others get Aborted "rank 2 failed: ...".
  void Fail(const absl::Status& status);
  /// All ranks get Aborted "rank 2 aborted: ...".
  void Abort(const absl::Status& reason);
  void SetAway(absl::Duration duration);

  /// Collective. Between OK and Return the rendezvous is the caller's, and no heart beats. Otherwise: why the
  /// communicator is dead, or DeadlineExceeded "`what`: rank 2 did not arrive".
  absl::Status Borrow(absl::string_view what);
  void Return();

 private:
  using Clock = std::chrono::steady_clock;
  enum class Meetings { kGoOn, kLent, kOver };

  void Run();
  void AdoptFailure(const absl::Status& other);
  /// Until the next heartbeat.
  void Pause() ABSL_LOCKS_EXCLUDED(mutex_);
  /// This rank's state now.
  Heartbeat Look() ABSL_LOCKS_EXCLUDED(mutex_);
  void RunDeadline(const OperationQueue::Progress& progress, Heartbeat* state) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  /// False: the communicator is dead, and everyone who can be told has been.
  bool Meet(const Heartbeat& mine) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<std::vector<Heartbeat>> Gather(const Heartbeat& mine);
  bool Conclude(const std::vector<Heartbeat>& states) ABSL_LOCKS_EXCLUDED(mutex_);
  void Die(const absl::Status& mine, const absl::Status& told) ABSL_LOCKS_EXCLUDED(mutex_);
  void Wake() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<int> Names(const std::vector<int>& ranks) const;
  int own_name() const { return Names({rendezvous_.rank()}).front(); }

  const CudaDeviceRef device_;
  Rendezvous& rendezvous_;
  NcclLink& link_;
  OperationQueue& queue_;
  const std::shared_ptr<NcclFailure> failure_;
  const NcclWatchOptions options_;

  Mutex mutex_;
  std::condition_variable wake_;     ///< the thread
  std::condition_variable changed_;  ///< Borrow
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
  bool leaves_ ABSL_GUARDED_BY(mutex_) = false;
  bool wants_rendezvous_ ABSL_GUARDED_BY(mutex_) = false;
  Meetings meetings_ ABSL_GUARDED_BY(mutex_) = Meetings::kGoOn;
  std::vector<int> not_wanting_ ABSL_GUARDED_BY(mutex_);  ///< at the last meeting, by name
  Clock::time_point away_until_ ABSL_GUARDED_BY(mutex_);
  Clock::time_point others_away_until_ ABSL_GUARDED_BY(mutex_);
  Departure departure_ ABSL_GUARDED_BY(mutex_);
  int64_t waiting_in_ ABSL_GUARDED_BY(mutex_) = -1;  ///< the operation that the stream waits in, by number
  absl::Duration waited_ ABSL_GUARDED_BY(mutex_);    ///< in it, while nobody was away
  Clock::time_point last_look_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_NCCL_NCCL_WATCH_H_
