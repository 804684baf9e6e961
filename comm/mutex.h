#ifndef SHARDSTEP_COMM_MUTEX_H_
#define SHARDSTEP_COMM_MUTEX_H_

#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"

namespace shardstep {

/// std::mutex with thread-safety annotations. Abseil's own Mutex, prebuilt by the distribution without instrumentation,
/// makes ThreadSanitizer report races that are none.
class ABSL_LOCKABLE Mutex {
 public:
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }
  std::mutex& native() { return mutex_; }

 private:
  std::mutex mutex_;
};

/// Holds a Mutex for its scope; `lock()` is what a std::condition_variable waits with.
class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : lock_(mutex->native()) {}
  ~MutexLock() ABSL_UNLOCK_FUNCTION() {}
  std::unique_lock<std::mutex>& lock() { return lock_; }

 private:
  std::unique_lock<std::mutex> lock_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_MUTEX_H_
