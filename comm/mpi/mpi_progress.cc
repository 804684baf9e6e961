#include "shardstep/comm/mpi/mpi_progress.h"

#include <sched.h>
#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "shardstep/comm/mpi/mpi_exchange.h"
#include "shardstep/comm/shm/futex.h"

namespace shardstep {
namespace {

// To one peer: the next one is there when one ends.
constexpr int kSendsUnderWay = 2;
constexpr int kYields = 50;
constexpr int kMostIdleRounds = 1000;
constexpr int64_t kPauseStepNs = 10'000;
constexpr int64_t kLongestAwaitedPauseNs = 200'000;
constexpr int64_t kLongestPauseNs = 1'000'000;
// MPI does not tell when it has moved a part of a message, but moving takes time. (So does being preempted, which costs
// a few short sleeps.)
constexpr int64_t kMovingLookNs = 20'000;

}  // namespace

MpiProgress::MpiProgress(MPI_Comm comm, MessageTags tags, std::vector<int> ranks, bool always_look, JobState* job,
                         Listener* listener)
    : comm_(comm), tags_(tags), ranks_(std::move(ranks)), looks_(always_look), job_(job), listener_(listener) {
  queued_sends_.resize(ranks_.size());
  sends_under_way_.resize(ranks_.size());
}

void MpiProgress::Start() {
  thread_ = std::thread([this] { Run(); });
}

bool MpiProgress::Stop(absl::Duration grace) {
  if (!thread_.joinable()) return true;
  {
    const MutexLock lock(&mutex_);
    stopping_ = true;
    grace_ = grace;
  }
  wake_.notify_one();
  thread_.join();
  return std::all_of(pending_.begin(), pending_.end(), [](const Pending& one) { return one.transfer == nullptr; });
}

void MpiProgress::Post(std::vector<Message> messages, std::shared_ptr<Transfer> transfer) {
  if (messages.empty()) return;
  {
    const MutexLock lock(&mutex_);
    orders_.push_back({.messages = std::move(messages), .transfer = std::move(transfer)});
  }
  wake_.notify_one();
}

void MpiProgress::SendSmall(int rank, const SmallMessage& message) {
  {
    const MutexLock lock(&mutex_);
    orders_.push_back({.small_rank = rank, .small = std::make_unique<SmallMessage>(message)});
  }
  wake_.notify_one();
}

void MpiProgress::Wake() {
  {
    const MutexLock lock(&mutex_);
    woken_ = true;
  }
  wake_.notify_one();
}

void MpiProgress::Run() {
  prctl(PR_SET_TIMERSLACK, 1000UL);  // of this thread: else its shortest sleeps take 50 us more
  while (true) {
    bool stopping = false;
    {
      const MutexLock lock(&mutex_);
      stopping = stopping_;
    }
    PostOrders();
    const int64_t begin_ns = requests_.empty() ? 0 : MonotonicNs();
    bool moved = TestRequests();
    moved |= ReceiveSmall();
    if (moved) {
      idle_rounds_ = 0;
    } else if (begin_ns != 0 && MonotonicNs() - begin_ns > kMovingLookNs) {
      idle_rounds_ = std::min(idle_rounds_, kYields);
    }
    listener_->Look();
    if (stopping) break;
    Pause();
  }
  FinishRequests();
}

void MpiProgress::PostOrders() {
  std::vector<Order> orders;
  {
    const MutexLock lock(&mutex_);
    orders.swap(orders_);
    woken_ = false;
  }
  if (!orders.empty()) idle_rounds_ = 0;
  for (Order& order : orders) {
    if (order.small != nullptr) {
      PostSmall(std::move(order));
      continue;
    }
    for (const Message& message : order.messages) {
      if (job_->failed()) break;
      if (message.direction == Message::kSend) {
        queued_sends_[static_cast<size_t>(message.member)].push_back({message, order.transfer});
      } else {
        PostMessage(message, order.transfer);
      }
    }
  }
  PostQueuedSends();
}

void MpiProgress::PostQueuedSends() {
  for (size_t member = 0; member < queued_sends_.size(); ++member) {
    auto& queue = queued_sends_[member];
    while (!queue.empty() && sends_under_way_[member] < kSendsUnderWay && !job_->failed()) {
      ++sends_under_way_[member];
      PostMessage(queue.front().first, std::move(queue.front().second));
      queue.pop_front();
    }
  }
}

void MpiProgress::PostMessage(const Message& message, std::shared_ptr<Transfer> transfer) {
  const int rank = ranks_[static_cast<size_t>(message.member)];
  MPI_Request request = MPI_REQUEST_NULL;
  const bool sends = message.direction == Message::kSend;
  const int code = sends ? MPI_Isend(message.data, message.bytes, MPI_BYTE, rank, message.tag, comm_, &request)
                         : MPI_Irecv(message.data, message.bytes, MPI_BYTE, rank, message.tag, comm_, &request);
  if (code != MPI_SUCCESS) {
    Check(code, absl::StrCat(transfer->name, sends ? ": MPI_Isend to rank " : ": MPI_Irecv from rank ", rank));
    return;
  }
  requests_.push_back(request);
  pending_.push_back({.message = message, .transfer = std::move(transfer)});
}

void MpiProgress::PostSmall(Order order) {
  MPI_Request request = MPI_REQUEST_NULL;
  const int code =
      MPI_Isend(order.small.get(), sizeof(SmallMessage), MPI_BYTE, order.small_rank, tags_.small(), comm_, &request);
  if (code != MPI_SUCCESS) {
    Check(code, absl::StrCat("MPI_Isend to rank ", order.small_rank));
    return;
  }
  requests_.push_back(request);
  pending_.push_back({.small = std::move(order.small)});
}

bool MpiProgress::TestRequests() {
  if (requests_.empty()) return false;
  indices_.resize(requests_.size());
  statuses_.resize(requests_.size());
  int done = 0;
  const int code =
      MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &done, indices_.data(), statuses_.data());
  int error_class = MPI_SUCCESS;
  MPI_Error_class(code, &error_class);
  const bool some_failed = error_class == MPI_ERR_IN_STATUS;
  if (!some_failed) Check(code, "MPI_Testsome");
  if (done <= 0) return false;  // or MPI_UNDEFINED
  std::vector<size_t> completed;
  for (size_t i = 0; i < static_cast<size_t>(done); ++i) {
    const auto index = static_cast<size_t>(indices_[i]);
    completed.push_back(index);
    const Pending& pending = pending_[index];
    if (pending.transfer == nullptr) continue;
    if (some_failed && statuses_[i].MPI_ERROR != MPI_SUCCESS) {
      Check(statuses_[i].MPI_ERROR,
            absl::StrCat(pending.transfer->name, ": message ",
                         pending.message.direction == Message::kSend ? "to rank " : "from rank ",
                         ranks_[static_cast<size_t>(pending.message.member)]));
    } else {
      const absl::Status status = CheckCompleted(pending, statuses_[i]);
      if (!status.ok()) listener_->Broken(status);
    }
  }
  CountDown(completed);
  Forget(std::move(completed));
  return true;
}

absl::Status MpiProgress::CheckCompleted(const Pending& pending, const MPI_Status& status) const {
  if (pending.message.direction == Message::kSend) return absl::OkStatus();
  int bytes = 0;
  MPI_Get_count(&status, MPI_BYTE, &bytes);
  if (bytes == pending.message.bytes) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(pending.transfer->name, ": rank ",
                                          ranks_[static_cast<size_t>(pending.message.member)], " sent ", bytes,
                                          " bytes instead of ", pending.message.bytes));
}

// After a failure nothing counts down: whoever trusted a count then would read a message that went wrong.
void MpiProgress::CountDown(const std::vector<size_t>& completed) {
  if (job_->failed()) return;
  {
    const MutexLock lock(&job_->mutex());
    for (const size_t index : completed) {
      const Pending& pending = pending_[index];
      if (pending.transfer == nullptr) continue;
      std::vector<int>& counts =
          pending.message.direction == Message::kSend ? pending.transfer->sending : pending.transfer->receiving;
      --counts[static_cast<size_t>(pending.message.member)];
    }
  }
  job_->Changed();
}

void MpiProgress::Forget(std::vector<size_t> completed) {
  std::sort(completed.rbegin(), completed.rend());
  for (const size_t index : completed) {
    const Pending& one = pending_[index];
    if (one.transfer != nullptr && one.message.direction == Message::kSend) {
      --sends_under_way_[static_cast<size_t>(one.message.member)];
    }
    if (index + 1 < requests_.size()) {
      requests_[index] = requests_.back();
      pending_[index] = std::move(pending_.back());
    }
    requests_.pop_back();
    pending_.pop_back();
  }
  PostQueuedSends();
}

bool MpiProgress::ReceiveSmall() {
  bool moved = false;
  while (true) {
    int there = 0;
    MPI_Status envelope;
    const int code = MPI_Iprobe(MPI_ANY_SOURCE, tags_.small(), comm_, &there, &envelope);
    if (code != MPI_SUCCESS) Check(code, "MPI_Iprobe");
    if (code != MPI_SUCCESS || there == 0) return moved;
    SmallMessage message;
    const int received =
        MPI_Recv(&message, sizeof(message), MPI_BYTE, envelope.MPI_SOURCE, tags_.small(), comm_, MPI_STATUS_IGNORE);
    if (received != MPI_SUCCESS) {
      Check(received, absl::StrCat("MPI_Recv from rank ", envelope.MPI_SOURCE));
      return moved;
    }
    listener_->Receive(envelope.MPI_SOURCE, message);
    moved = true;
  }
}

void MpiProgress::Pause() {
  const bool awaited = !requests_.empty() || job_->waiting() > 0;
  idle_rounds_ = std::min(idle_rounds_ + 1, kMostIdleRounds);
  if (idle_rounds_ <= kYields) {
    sched_yield();
    return;
  }
  const int64_t pause_ns =
      std::min(kPauseStepNs * (idle_rounds_ - kYields), awaited ? kLongestAwaitedPauseNs : kLongestPauseNs);
  MutexLock lock(&mutex_);
  if (!orders_.empty() || woken_ || stopping_) return;
  if (looks_) {
    wake_.wait_for(lock.lock(), std::chrono::nanoseconds(pause_ns));
  } else {
    wake_.wait(lock.lock());
  }
}

void MpiProgress::FinishRequests() {
  PostOrders();  // what the last look has ordered
  absl::Duration grace;
  {
    const MutexLock lock(&mutex_);
    grace = grace_;
  }
  for (size_t i = 0; i < requests_.size(); ++i) {
    if (pending_[i].transfer != nullptr && pending_[i].message.direction == Message::kReceive) {
      MPI_Cancel(&requests_[i]);
    }
  }
  const int64_t end_ns = MonotonicNs() + absl::ToInt64Nanoseconds(grace);
  PollingPause pause;
  while (!requests_.empty() && MonotonicNs() < end_ns) {
    indices_.resize(requests_.size());
    int done = 0;
    MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &done, indices_.data(), MPI_STATUSES_IGNORE);
    if (done > 0) {
      std::vector<size_t> completed;
      for (int i = 0; i < done; ++i) completed.push_back(static_cast<size_t>(indices_[static_cast<size_t>(i)]));
      Forget(std::move(completed));
    } else {
      pause.Sleep();
    }
  }
  for (Pending& pending : pending_) static_cast<void>(pending.small.release());
}

void MpiProgress::Check(int code, absl::string_view call) {
  const absl::Status status = MpiStatus(code, call);
  if (!status.ok()) listener_->Broken(status);
}

}  // namespace shardstep
