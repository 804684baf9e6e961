#include "shardstep/tests/cuda/fake_queue.h"

#include <chrono>
#include <utility>

namespace shardstep {

FakeQueue::FakeQueue() : done_(new Node), last_(done_), worker_([this] { WorkerLoop(); }) {}

FakeQueue::~FakeQueue() {
  Push([this] { ended_ = true; });
  worker_.join();
  delete done_;
}

void FakeQueue::Push(std::function<void()> function) {
  Node* const node = new Node{std::move(function)};
  last_->next = node;
  last_ = node;
  pushed_.fetch_add(1, std::memory_order_release);
  pushed_.notify_one();
}

void FakeQueue::WorkerLoop() {
  for (int run = 0; !ended_; ++run) {
    while (pushed_.load(std::memory_order_acquire) == run) pushed_.wait(run, std::memory_order_acquire);
    Node* const node = done_->next;
    delete done_;
    done_ = node;
    node->function();
    node->function = nullptr;
  }
}

void FakeMark::Reach() {
  milliseconds_ =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
  reached_.store(1, std::memory_order_release);
  reached_.notify_all();
}

void FakeMark::Wait() const {
  while (!reached()) reached_.wait(0, std::memory_order_acquire);
}

}  // namespace shardstep
