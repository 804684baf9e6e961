#include "shardstep/optimizer/worker_pool.h"

#include <sched.h>

#include <algorithm>
#include <system_error>

namespace shardstep {

int KernelThreads(int asked, int ranks_of_host) {
  if (asked > 0) return asked;
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof(cores), &cores) != 0) return 1;
  return std::max(1, CPU_COUNT(&cores) / ranks_of_host);
}

absl::StatusOr<std::unique_ptr<WorkerPool>> WorkerPool::Create(int workers) {
  std::unique_ptr<WorkerPool> pool(new WorkerPool);
  try {
    for (int i = 0; i < workers; ++i) {
      pool->workers_.emplace_back([raw = pool.get()] { raw->WorkerLoop(); });
    }
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(absl::StrCat("no thread for worker ", pool->workers_.size() + 1, " of ",
                                                     workers, " of the shard kernels: ", error.what()));
  }
  return pool;
}

WorkerPool::~WorkerPool() {
  {
    MutexLock lock(&mutex_);
    ending_ = true;
  }
  job_ready_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void WorkerPool::Run(const std::function<void()>& body) {
  {
    MutexLock lock(&mutex_);
    if (!workers_.empty() && !busy_) {
      busy_ = true;
      body_ = &body;
      ++job_;
    }
  }
  job_ready_.notify_all();
  body();
  MutexLock lock(&mutex_);
  if (body_ != &body) return;
  body_ = nullptr;
  while (active_ > 0) workers_left_.wait(lock.lock());
  busy_ = false;
}

void WorkerPool::WorkerLoop() {
  int64_t last_job = 0;
  MutexLock lock(&mutex_);
  while (true) {
    while (!ending_ && (body_ == nullptr || job_ == last_job)) job_ready_.wait(lock.lock());
    if (ending_) return;
    last_job = job_;
    const std::function<void()>* body = body_;
    ++active_;
    lock.lock().unlock();
    (*body)();
    lock.lock().lock();
    if (--active_ == 0) workers_left_.notify_all();
  }
}

}  // namespace shardstep
