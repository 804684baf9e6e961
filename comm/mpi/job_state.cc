#include "shardstep/comm/mpi/job_state.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "shardstep/comm/rank_list.h"
#include "shardstep/comm/shm/futex.h"

namespace shardstep {
namespace {

constexpr int64_t kForever = std::numeric_limits<int64_t>::max();
// Any sum of a time and a deadline that a person may mean is far below.
constexpr int64_t kLongestSleepNs = 1'000'000'000;

int64_t SaturatingAdd(int64_t a, int64_t b) { return a > kForever - b ? kForever : a + b; }

}  // namespace

JobState::JobState(int rank, int ranks) : rank_(rank), away_until_ns_(static_cast<size_t>(ranks), 0) {}

bool JobState::Fail(const absl::Status& failure) {
  {
    const MutexLock lock(&mutex_);
    if (failure.ok() || !failure_.ok()) return false;
    failure_ = failure;
    failed_.store(true);
  }
  Changed();
  return true;
}

absl::Status JobState::failure() const {
  const MutexLock lock(&mutex_);
  return failure_;
}

void JobState::SetAway(int rank, absl::Duration duration) {
  {
    const MutexLock lock(&mutex_);
    const int64_t now_ns = MonotonicNs();
    int64_t& until_ns = away_until_ns_[static_cast<size_t>(rank)];
    if (duration > absl::ZeroDuration()) {
      until_ns = SaturatingAdd(now_ns, absl::ToInt64Nanoseconds(duration));
    } else {
      until_ns = std::min(until_ns, now_ns);
    }
  }
  Changed();
}

int64_t JobState::LastAwayNs(int64_t now_ns) const {
  const MutexLock lock(&mutex_);
  return LastAwayLocked(now_ns);
}

int64_t JobState::LastAwayLocked(int64_t now_ns) const {
  int64_t last_ns = 0;
  for (const int64_t until_ns : away_until_ns_) last_ns = std::max(last_ns, std::min(now_ns, until_ns));
  return last_ns;
}

absl::Duration JobState::OthersAway(int64_t now_ns) const {
  const MutexLock lock(&mutex_);
  int64_t longest_ns = 0;
  for (size_t rank = 0; rank < away_until_ns_.size(); ++rank) {
    if (static_cast<int>(rank) != rank_) longest_ns = std::max(longest_ns, away_until_ns_[rank] - now_ns);
  }
  return absl::Nanoseconds(longest_ns);
}

absl::Status JobState::Await(const Wait& wait) {
  const int64_t start_ns = MonotonicNs();
  const int64_t deadline_ns = absl::ToInt64Nanoseconds(wait.deadline + wait.grace);
  MutexLock lock(&mutex_);
  ++waiting_;
  absl::Status status;
  while (true) {
    status = failure_;
    if (!status.ok()) break;
    const std::vector<int> absent = wait.absent();
    if (absent.empty()) break;
    const int64_t now_ns = MonotonicNs();
    const int64_t end_ns = SaturatingAdd(std::max(start_ns, LastAwayLocked(now_ns)), deadline_ns);
    if (now_ns >= end_ns) {
      status = absl::DeadlineExceededError(absl::StrCat(
          wait.operation(), ": ", RankList(absent), " did not arrive within ", absl::FormatDuration(wait.deadline)));
      break;
    }
    changed_.wait_for(lock.lock(), std::chrono::nanoseconds(std::min(end_ns - now_ns, kLongestSleepNs)));
  }
  --waiting_;
  return status;
}

int JobState::waiting() const {
  const MutexLock lock(&mutex_);
  return waiting_;
}

}  // namespace shardstep
