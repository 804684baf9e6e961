#include "shardstep/tests/comm/landing_table.h"

#include <algorithm>

#include "shardstep/comm/rank_list.h"

namespace shardstep {
namespace {

constexpr absl::Duration kLongest = absl::Hours(24);

}  // namespace

void LandingJob::Fail(const absl::Status& failure) {
  const MutexLock lock(&mutex_);
  if (failure_.ok()) failure_ = failure;
  NotifyAll();
}

absl::Status LandingJob::failure() {
  const MutexLock lock(&mutex_);
  return failure_;
}

void LandingJob::SetAway(int rank, absl::Duration duration) {
  const MutexLock lock(&mutex_);
  const Clock::time_point now = Clock::now();
  Clock::time_point& until = away_until_[static_cast<size_t>(rank)];
  if (duration > absl::ZeroDuration()) {
    until = now + absl::ToChronoNanoseconds(std::min(duration, kLongest));
  } else {
    until = std::min(until, now);
  }
  NotifyAll();
}

LandingJob::Clock::time_point LandingJob::LastAway(Clock::time_point now) const {
  Clock::time_point last;
  for (const Clock::time_point until : away_until_) last = std::max(last, std::min(now, until));
  return last;
}

absl::Status LandingJob::Await(MutexLock& lock, absl::Duration deadline, absl::FunctionRef<std::string()> operation,
                               absl::FunctionRef<std::vector<int>()> absent) {
  const Clock::time_point start = Clock::now();
  while (true) {
    if (!failure_.ok()) return failure_;
    const std::vector<int> missing = absent();
    if (missing.empty()) return absl::OkStatus();
    const Clock::time_point now = Clock::now();
    const Clock::time_point end =
        std::max(start, LastAway(now)) + absl::ToChronoNanoseconds(std::min(deadline, kLongest));
    if (now >= end) {
      return absl::DeadlineExceededError(absl::StrCat(operation(), ": ", RankList(missing), " did not arrive within ",
                                                      absl::FormatDuration(deadline)));
    }
    changed_.wait_until(lock.lock(), end);
  }
}

}  // namespace shardstep
