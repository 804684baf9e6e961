#ifndef SHARDSTEP_COMM_HOST_STREAM_H_
#define SHARDSTEP_COMM_HOST_STREAM_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <thread>

#include "shardstep/comm/mutex.h"
#include "shardstep/comm/stream.h"

namespace shardstep {

/// A host stream with a worker thread. A thread blocked in Synchronize runs queued items itself, in order, while nobody
/// else is running one; it never runs items behind the event it waits for. Idle threads sleep.
///
/// A failed item's status becomes the sticky error, with the item's name before its message unless the name is empty.
/// The closures of items that are dropped are destroyed without having run. An item that finds no memory (bad_alloc)
/// fails with ResourceExhausted.
///
/// Wait for another stream's event enqueues an item that synchronizes with it: that stream must outlive this item, and
/// its error becomes this stream's. The destructor finishes what is queued; nobody may be in Synchronize then.
class ThreadStream : public HostStream {
 public:
  ThreadStream();
  ~ThreadStream() override;
  ThreadStream(const ThreadStream&) = delete;
  ThreadStream& operator=(const ThreadStream&) = delete;

  void Enqueue(absl::string_view name, Work work) override;
  Event Record() override;
  void Wait(const Event& event) override;
  absl::Status Synchronize(const Event& event) override;
  absl::Status status() const override;

 private:
  struct Item {
    absl::string_view name;
    Work work;
  };

  void WorkerLoop();
  /// Runs the first item without holding the mutex meanwhile. Requires a queued item and nobody running.
  void RunFirst(MutexLock& lock) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable Mutex mutex_;
  std::condition_variable work_ready_;  ///< the worker: an item is queued and nobody runs one, or the end
  std::condition_variable progress_;    ///< callers of Synchronize: an item has finished
  std::deque<Item> queue_ ABSL_GUARDED_BY(mutex_);
  int64_t enqueued_ ABSL_GUARDED_BY(mutex_) = 0;  ///< the ticket of the last item
  int64_t finished_ ABSL_GUARDED_BY(mutex_) = 0;  ///< items up to this ticket have run or were dropped
  int waiting_ ABSL_GUARDED_BY(mutex_) = 0;       ///< threads that sleep on progress_
  bool running_ ABSL_GUARDED_BY(mutex_) = false;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  std::thread worker_;
};

/// A host stream that runs each item at once, on the thread that enqueues it: the stream of a caller's own thread.
/// Every recorded event is already reached. Wait synchronizes with the event's stream on the calling thread and takes
/// over that stream's error. Errors as in ThreadStream.
class InlineStream : public HostStream {
 public:
  void Enqueue(absl::string_view name, Work work) override;
  Event Record() override;
  void Wait(const Event& event) override;
  absl::Status Synchronize(const Event& event) override;
  absl::Status status() const override;

 private:
  void KeepFirst(const absl::Status& status);

  mutable Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_HOST_STREAM_H_
