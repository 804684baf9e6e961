#ifndef SHARDSTEP_OPTIMIZER_WORKER_POOL_H_
#define SHARDSTEP_OPTIMIZER_WORKER_POOL_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "shardstep/comm/mutex.h"
#include "shardstep/comm/status.h"

namespace shardstep {

/// Threads that a rank's kernels get: `asked`, or where that is 0 an equal share of the cores that this process may run
/// on, at least 1.
int KernelThreads(int asked, int ranks_of_host);

/// Threads that help the thread which calls Run. They sleep in between. Threads: Run from any; the destructor when no
/// Run is under way.
class WorkerPool {
 public:
  /// ResourceExhausted when the system refuses a thread.
  static absl::StatusOr<std::unique_ptr<WorkerPool>> Create(int workers);
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  /// Calls `body` on this thread and, meanwhile, once on each worker that is idle and wakes up before this thread
  /// has left it; returns when all of them have left it. So `body` takes pieces of the work until none is left, and a
  /// worker that gets no core delays nobody. When another Run has the workers, this one does without.
  void Run(const std::function<void()>& body);

 private:
  WorkerPool() = default;
  void WorkerLoop();

  Mutex mutex_;
  std::condition_variable job_ready_;
  std::condition_variable workers_left_;
  const std::function<void()>* body_ ABSL_GUARDED_BY(mutex_) = nullptr;  ///< nullptr: nothing to join
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;                            ///< a Run has the workers
  int64_t job_ ABSL_GUARDED_BY(mutex_) = 0;
  int active_ ABSL_GUARDED_BY(mutex_) = 0;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> workers_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_WORKER_POOL_H_
