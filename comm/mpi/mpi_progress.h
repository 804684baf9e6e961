#ifndef SHARDSTEP_COMM_MPI_MPI_PROGRESS_H_
#define SHARDSTEP_COMM_MPI_MPI_PROGRESS_H_

/// For the sources of comm/mpi/ only: this header names MPI's types.

#include <mpi.h>

#include <condition_variable>
#include <deque>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "shardstep/comm/mpi/data_plan.h"
#include "shardstep/comm/mpi/job_state.h"
#include "shardstep/comm/mpi/mpi_wire.h"
#include "shardstep/comm/mutex.h"

namespace shardstep {

/// The thread that makes all MPI calls of one communicator. It posts what others hand over, in that order, looks at
/// what is under way, takes in small messages, and sleeps between two looks: ever longer while nothing moves. Of the
/// messages to one peer only a few are under way at a time: MPI moves all that are at once, and what is needed first
/// would come last.
class MpiProgress {
 public:
  /// Called on the progress thread, without locks.
  class Listener {
   public:
    virtual ~Listener() = default;
    virtual void Receive(int rank, const SmallMessage& message) = 0;
    /// Once per look.
    virtual void Look() = 0;
    /// An MPI call has failed, or a message had the wrong length.
    virtual void Broken(const absl::Status& status) = 0;
  };

  /// `ranks`: of `comm`, by member. `job` and `listener` must outlive Stop. `always_look`: also without peers there is
  /// something to look at.
  MpiProgress(MPI_Comm comm, MessageTags tags, std::vector<int> ranks, bool always_look, JobState* job,
              Listener* listener);
  /// After Stop, or before Start.
  ~MpiProgress() = default;
  MpiProgress(const MpiProgress&) = delete;
  MpiProgress& operator=(const MpiProgress&) = delete;

  void Start();
  /// Sends what was handed over, gives up receives that nobody has answered yet, and waits up to `grace` for the rest.
  /// False: MPI may still touch memory of messages.
  bool Stop(absl::Duration grace);

  /// Any thread. `transfer` has counted `messages` already; it is counted down as they get through. Nothing is posted
  /// after a failure.
  void Post(std::vector<Message> messages, std::shared_ptr<Transfer> transfer);
  /// Any thread. To `rank` of `comm`.
  void SendSmall(int rank, const SmallMessage& message);
  /// Any thread. The next look is now.
  void Wake();

 private:
  struct Order {
    std::vector<Message> messages;
    std::shared_ptr<Transfer> transfer;
    int small_rank = -1;
    std::unique_ptr<SmallMessage> small;
  };
  /// What stands behind a request.
  struct Pending {
    Message message;
    std::shared_ptr<Transfer> transfer;   ///< null: a small message
    std::unique_ptr<SmallMessage> small;  ///< of a small send
  };

  void Run();
  void PostOrders();
  void PostMessage(const Message& message, std::shared_ptr<Transfer> transfer);
  /// As many of the sends that wait for their turn as may be under way.
  void PostQueuedSends();
  void PostSmall(Order order);
  /// These say whether anything has moved.
  bool TestRequests();
  bool ReceiveSmall();
  absl::Status CheckCompleted(const Pending& pending, const MPI_Status& status) const;
  void CountDown(const std::vector<size_t>& completed);
  void Forget(std::vector<size_t> completed);
  void Pause();
  void FinishRequests();
  void Check(int code, absl::string_view call);

  const MPI_Comm comm_;
  const MessageTags tags_;
  const std::vector<int> ranks_;
  const bool looks_;
  JobState* const job_;
  Listener* const listener_;

  Mutex mutex_;
  std::condition_variable wake_;
  std::vector<Order> orders_ ABSL_GUARDED_BY(mutex_);
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration grace_ ABSL_GUARDED_BY(mutex_);

  // Of the progress thread.
  std::vector<MPI_Request> requests_;
  std::vector<Pending> pending_;  ///< by request
  /// By member: sends that wait for their turn, and how many are under way.
  std::vector<std::deque<std::pair<Message, std::shared_ptr<Transfer>>>> queued_sends_;
  std::vector<int> sends_under_way_;
  std::vector<int> indices_;
  std::vector<MPI_Status> statuses_;
  int idle_rounds_ = 0;

  std::thread thread_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_MPI_MPI_PROGRESS_H_
