#include "shardstep/comm/inproc/thread_rendezvous.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <optional>
#include <utility>

#include "shardstep/comm/mutex.h"
#include "shardstep/comm/rank_list.h"

namespace shardstep {
namespace {

// The latest moment that does not overflow the clock's arithmetic.
std::chrono::steady_clock::time_point DeadlineFromNow(absl::Duration duration) {
  return std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(std::min(duration, absl::Hours(24 * 365)));
}

// One AllGatherBytes of all ranks. A rank that is slow to fetch the result keeps it while others meet again.
struct Round {
  explicit Round(int world_size) : tags(static_cast<size_t>(world_size)), bytes(static_cast<size_t>(world_size)) {}

  std::vector<std::optional<std::string>> tags;
  std::vector<std::string> bytes;
  int arrived = 0;

  std::vector<int> Absent() const {
    std::vector<int> absent;
    for (size_t rank = 0; rank < tags.size(); ++rank) {
      if (!tags[rank].has_value()) absent.push_back(static_cast<int>(rank));
    }
    return absent;
  }
};

}  // namespace

class ThreadRendezvousGroup::State {
 public:
  explicit State(int world_size) : world_size_(world_size), round_(std::make_shared<Round>(world_size)) {}

  int world_size() const { return world_size_; }

  absl::StatusOr<std::vector<std::string>> Gather(int rank, absl::string_view what, absl::string_view bytes,
                                                  absl::Duration deadline) {
    MutexLock lock(&mutex_);
    SHARDSTEP_RETURN_IF_ERROR(failure_);
    const std::shared_ptr<Round> round = round_;
    SHARDSTEP_RETURN_IF_ERROR(Arrive(*round, rank, what, bytes));
    if (round->arrived == world_size_) {
      round_ = std::make_shared<Round>(world_size_);
      changed_.notify_all();
      return round->bytes;
    }
    const auto end = DeadlineFromNow(deadline);
    while (round->arrived < world_size_ && failure_.ok()) {
      if (changed_.wait_until(lock.lock(), end) == std::cv_status::no_timeout) continue;
      if (round->arrived == world_size_ || !failure_.ok()) break;
      return Fail(absl::DeadlineExceededError(absl::StrCat(what, ": ", RankList(round->Absent()),
                                                           " did not arrive within ", absl::FormatDuration(deadline))));
    }
    if (round->arrived == world_size_) return round->bytes;
    return failure_;
  }

  void FailAs(int rank, const absl::Status& reason) {
    MutexLock lock(&mutex_);
    if (!failure_.ok()) return;
    Fail(AbortedBy(rank, CauseOf(reason), absl::StrCat("failed: ", reason.message()))).IgnoreError();
  }

 private:
  absl::Status Arrive(Round& round, int rank, absl::string_view what, absl::string_view bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (size_t peer = 0; peer < round.tags.size(); ++peer) {
      if (!round.tags[peer].has_value() || *round.tags[peer] == what) continue;
      return Fail(absl::FailedPreconditionError(absl::StrCat("rendezvous: rank ", rank, " is at \"", what, "\", rank ",
                                                             peer, " at \"", *round.tags[peer], "\"")));
    }
    round.tags[static_cast<size_t>(rank)] = std::string(what);
    round.bytes[static_cast<size_t>(rank)] = std::string(bytes);
    ++round.arrived;
    return absl::OkStatus();
  }

  absl::Status Fail(const absl::Status& failure) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    failure_ = failure;
    changed_.notify_all();
    return failure;
  }

  const int world_size_;
  Mutex mutex_;
  std::condition_variable changed_;
  std::shared_ptr<Round> round_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

namespace {

template <typename State>
class ThreadRendezvous : public Rendezvous {
 public:
  ThreadRendezvous(int rank, std::shared_ptr<State> state) : rank_(rank), state_(std::move(state)) {}

  int rank() const override { return rank_; }
  int world_size() const override { return state_->world_size(); }
  absl::StatusOr<std::vector<std::string>> AllGatherBytes(absl::string_view what, absl::string_view bytes,
                                                          absl::Duration deadline) override {
    return state_->Gather(rank_, what, bytes, deadline);
  }
  void Fail(const absl::Status& reason) override { state_->FailAs(rank_, reason); }

 private:
  const int rank_;
  const std::shared_ptr<State> state_;
};

}  // namespace

ThreadRendezvousGroup::ThreadRendezvousGroup(int world_size) : state_(std::make_shared<State>(world_size)) {}
ThreadRendezvousGroup::~ThreadRendezvousGroup() = default;

std::unique_ptr<Rendezvous> ThreadRendezvousGroup::Join(int rank) {
  return std::make_unique<ThreadRendezvous<State>>(rank, state_);
}

}  // namespace shardstep
