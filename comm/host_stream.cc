#include "shardstep/comm/host_stream.h"

#include <new>
#include <utility>

namespace shardstep {
namespace {

// Whoever runs it has nobody to throw to.
absl::Status Run(const HostStream::Work& work, absl::string_view name) {
  absl::Status status;
  try {
    status = work();
  } catch (const std::bad_alloc&) {
    status = absl::ResourceExhaustedError("out of memory");
  }
  return name.empty() ? status : Annotate(status, name);
}

}  // namespace

ThreadStream::ThreadStream() : worker_([this] { WorkerLoop(); }) {}

ThreadStream::~ThreadStream() {
  {
    MutexLock lock(&mutex_);
    ending_ = true;
  }
  work_ready_.notify_one();
  worker_.join();
}

void ThreadStream::Enqueue(absl::string_view name, Work work) {
  {
    MutexLock lock(&mutex_);
    if (!status_.ok()) {
      ++enqueued_;
      if (!running_) finished_ = enqueued_;
      return;
    }
    queue_.push_back(Item{name, std::move(work)});
    ++enqueued_;           // now that there is memory for it
    if (running_) return;  // whoever runs an item looks at the queue afterwards
  }
  work_ready_.notify_one();
}

Event ThreadStream::Record() {
  MutexLock lock(&mutex_);
  return Event{this, enqueued_};
}

void ThreadStream::Wait(const Event& event) {
  if (event.stream == nullptr || event.stream == this) return;
  Enqueue("", [event] { return event.stream->Synchronize(event); });
}

absl::Status ThreadStream::Synchronize(const Event& event) {
  MutexLock lock(&mutex_);
  if (event.stream != nullptr && event.stream != this) {
    return absl::InvalidArgumentError("Synchronize: the event belongs to another stream");
  }
  while (finished_ < event.ticket) {
    if (running_) {
      ++waiting_;
      progress_.wait(lock.lock());
      --waiting_;
    } else {
      RunFirst(lock);
    }
  }
  if (!running_ && !queue_.empty()) work_ready_.notify_one();
  return status_;
}

absl::Status ThreadStream::status() const {
  MutexLock lock(&mutex_);
  return status_;
}

void ThreadStream::WorkerLoop() {
  MutexLock lock(&mutex_);
  while (true) {
    if (!running_ && !queue_.empty()) {
      RunFirst(lock);
    } else if (ending_) {
      return;
    } else {
      work_ready_.wait(lock.lock());
    }
  }
}

void ThreadStream::RunFirst(MutexLock& lock) {
  Item item = std::move(queue_.front());
  queue_.pop_front();
  running_ = true;
  lock.lock().unlock();
  const absl::Status result = Run(item.work, item.name);
  item.work = nullptr;  // what a closure holds is gone before its event counts as reached
  lock.lock().lock();
  if (!result.ok()) {
    status_ = result;
    std::deque<Item> dropped = std::exchange(queue_, {});
    lock.lock().unlock();
    dropped.clear();
    lock.lock().lock();
  }
  finished_ = status_.ok() ? finished_ + 1 : enqueued_;
  running_ = false;
  if (waiting_ > 0) progress_.notify_all();
}

void InlineStream::Enqueue(absl::string_view name, Work work) {
  if (!status().ok()) return;
  KeepFirst(Run(work, name));
}

Event InlineStream::Record() { return Event{this, 0}; }

void InlineStream::Wait(const Event& event) {
  if (event.stream == nullptr || event.stream == this) return;
  KeepFirst(event.stream->Synchronize(event));
}

absl::Status InlineStream::Synchronize(const Event& event) {
  if (event.stream != nullptr && event.stream != this) {
    return absl::InvalidArgumentError("Synchronize: the event belongs to another stream");
  }
  return status();
}

absl::Status InlineStream::status() const {
  MutexLock lock(&mutex_);
  return status_;
}

void InlineStream::KeepFirst(const absl::Status& status) {
  if (status.ok()) return;
  MutexLock lock(&mutex_);
  if (status_.ok()) status_ = status;
}

}  // namespace shardstep
