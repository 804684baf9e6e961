#ifndef SHARDSTEP_TESTS_CUDA_FAKE_QUEUE_H_
#define SHARDSTEP_TESTS_CUDA_FAKE_QUEUE_H_

#include <atomic>
#include <functional>
#include <thread>

namespace shardstep {

/// Functions that a worker thread runs in order. What the worker has done is not visible to whoever pushes: no lock is
/// shared between them, so that ThreadSanitizer sees only the order that waits make.
class FakeQueue {
 public:
  FakeQueue();
  /// Finishes what was pushed.
  ~FakeQueue();
  FakeQueue(const FakeQueue&) = delete;
  FakeQueue& operator=(const FakeQueue&) = delete;

  /// One thread at a time.
  void Push(std::function<void()> function);

 private:
  struct Node {
    std::function<void()> function;
    Node* next = nullptr;
  };
  void WorkerLoop();

  Node* done_;  ///< the worker's: the node that it has done last
  Node* last_;  ///< the pusher's
  std::atomic<int> pushed_{0};
  bool ended_ = false;  ///< the worker's
  std::thread worker_;
};

/// A point that is reached once.
class FakeMark {
 public:
  void Reach();
  bool reached() const { return reached_.load(std::memory_order_acquire) != 0; }
  void Wait() const;
  /// When it was reached.
  double milliseconds() const { return milliseconds_; }

 private:
  std::atomic<int> reached_{0};
  double milliseconds_ = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_CUDA_FAKE_QUEUE_H_
