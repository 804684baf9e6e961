#include "shardstep/comm/shm/control.h"

#include <sched.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "shardstep/comm/rank_list.h"
#include "shardstep/comm/shm/futex.h"

namespace shardstep {
namespace {

constexpr int kYieldsBeforeSleep = 4;
// A rank that dies between changing its counter and waking the others delays them by no more than this.
constexpr int64_t kLongestSleepNs = 1'000'000'000;
constexpr int64_t kForever = std::numeric_limits<int64_t>::max();

int64_t SaturatingAdd(int64_t a, int64_t b) { return a > kForever - b ? kForever : a + b; }

class CountedWaiter {
 public:
  explicit CountedWaiter(WaitWord* word) : word_(word) { word_->waiters.fetch_add(1); }
  ~CountedWaiter() { word_->waiters.fetch_sub(1); }
  CountedWaiter(const CountedWaiter&) = delete;
  CountedWaiter& operator=(const CountedWaiter&) = delete;

 private:
  WaitWord* word_;
};

}  // namespace

void CounterRow::Advance(int rank, int64_t value) const {
  const int64_t before = counters[rank].value.load(std::memory_order_relaxed);
  counters[rank].value.store(value);
  if (word->waiters.load() > 0 && AllReached(before + 1)) Wake();
}

bool CounterRow::AllReached(int64_t value) const {
  for (int rank = 0; rank < world_size; ++rank) {
    if (counters[rank].value.load() < value) return false;
  }
  return true;
}

std::vector<int> CounterRow::Absent(int64_t value) const {
  std::vector<int> absent;
  for (int rank = 0; rank < world_size; ++rank) {
    if (counters[rank].value.load() < value) absent.push_back(rank);
  }
  return absent;
}

void CounterRow::Wake() const {
  word->sequence.fetch_add(1);
  FutexWakeAll(word->sequence);
}

struct JobControl::Memory {
  enum AbortState : int32_t { kRunning, kWritingReason, kAborted };

  WaitWord reduced_word;
  alignas(kCacheLineBytes) std::atomic<int32_t> abort_state;
  int32_t abort_rank;   // its name
  int32_t abort_cause;  // absl::StatusCode
  char abort_reason[1024];
};

int64_t JobControl::SizeBytes(int world_size) {
  return static_cast<int64_t>(sizeof(Memory) +
                              (sizeof(Counter) + sizeof(RankControl)) * static_cast<size_t>(world_size));
}

JobControl::JobControl(BufferView memory, int world_size, std::vector<int> rank_names)
    : memory_(memory.as<Memory>()),
      reduced_(reinterpret_cast<Counter*>(memory.data + sizeof(Memory))),
      ranks_(reinterpret_cast<RankControl*>(reduced_ + world_size)),
      world_size_(world_size),
      rank_names_(std::move(rank_names)) {}

void JobControl::Abort(int rank, const absl::Status& reason) const {
  int32_t expected = Memory::kRunning;
  if (memory_->abort_state.compare_exchange_strong(expected, Memory::kWritingReason)) {
    const std::string text(reason.message());
    memory_->abort_rank = NameOf(rank);
    memory_->abort_cause = static_cast<int32_t>(CauseOf(reason));
    std::strncpy(memory_->abort_reason, text.c_str(), sizeof(memory_->abort_reason) - 1);
    memory_->abort_state.store(Memory::kAborted);
  }
  reduced().Wake();
}

absl::Status JobControl::AbortStatus() const {
  int32_t state = memory_->abort_state.load();
  if (state == Memory::kRunning) return absl::OkStatus();
  // The writer may have been killed half-way: do not wait for it long.
  for (int i = 0; i < 1000 && state == Memory::kWritingReason; ++i) {
    sched_yield();
    state = memory_->abort_state.load();
  }
  if (state == Memory::kWritingReason) return absl::AbortedError("a rank aborted and ended before it said why");
  return AbortedBy(memory_->abort_rank, static_cast<absl::StatusCode>(memory_->abort_cause),
                   absl::StrCat("aborted: ", memory_->abort_reason));
}

void JobControl::SetAway(int rank, absl::Duration duration) const {
  const int64_t now_ns = MonotonicNs();
  std::atomic<int64_t>& until_ns = rank_control(rank).away_until_ns;
  if (duration > absl::ZeroDuration()) {
    until_ns.store(SaturatingAdd(now_ns, absl::ToInt64Nanoseconds(duration)));
  } else if (until_ns.load() > now_ns) {
    until_ns.store(now_ns);
  }
}

int64_t JobControl::LastAwayNs(int64_t now_ns) const {
  int64_t last_ns = 0;
  for (int rank = 0; rank < world_size_; ++rank) {
    last_ns = std::max(last_ns, std::min(now_ns, rank_control(rank).away_until_ns.load()));
  }
  return last_ns;
}

CounterRow JobControl::reduced() const { return {&memory_->reduced_word, reduced_, world_size_}; }

SmallReduction& JobControl::slot(int rank, int64_t number) const { return rank_control(rank).slots[number % 2]; }

RankControl& JobControl::rank_control(int rank) const { return ranks_[rank]; }

absl::Status AwaitCounters(const JobControl& job, const CounterRow& row, int64_t value, absl::Duration deadline,
                           absl::FunctionRef<std::string()> operation) {
  for (int i = 0; i < kYieldsBeforeSleep; ++i) {
    SHARDSTEP_RETURN_IF_ERROR(job.AbortStatus());
    if (row.AllReached(value)) return absl::OkStatus();
    sched_yield();
  }
  const int64_t start_ns = MonotonicNs();
  const int64_t deadline_ns = absl::ToInt64Nanoseconds(deadline);
  const CountedWaiter waiter(row.word);
  while (true) {
    // Read before the conditions: whatever changes them afterwards changes the word too, and the sleep ends at once.
    const uint32_t sequence = row.word->sequence.load();
    SHARDSTEP_RETURN_IF_ERROR(job.AbortStatus());
    std::vector<int> absent = row.Absent(value);
    if (absent.empty()) return absl::OkStatus();
    const int64_t now_ns = MonotonicNs();
    const int64_t end_ns = SaturatingAdd(std::max(start_ns, job.LastAwayNs(now_ns)), deadline_ns);
    if (now_ns >= end_ns) {
      for (int& rank : absent) rank = job.NameOf(rank);
      return absl::DeadlineExceededError(
          absl::StrCat(operation(), ": ", RankList(absent), " did not arrive within ", absl::FormatDuration(deadline)));
    }
    FutexWait(row.word->sequence, sequence, std::min(end_ns - now_ns, kLongestSleepNs));
  }
}

int64_t BucketControl::SizeBytes(int buckets, int world_size) {
  const int64_t rows = int64_t{kKinds} * buckets;
  return rows * static_cast<int64_t>(sizeof(WaitWord)) + rows * world_size * static_cast<int64_t>(sizeof(Counter));
}

BucketControl::BucketControl(BufferView memory, int buckets, int world_size)
    : words_(memory.as<WaitWord>()),
      counters_(reinterpret_cast<Counter*>(words_ + int64_t{kKinds} * buckets)),
      buckets_(buckets),
      world_size_(world_size) {}

CounterRow BucketControl::row(Kind kind, int bucket) const {
  const int64_t index = int64_t{kind} * buckets_ + bucket;
  return {words_ + index, counters_ + index * world_size_, world_size_};
}

void BucketControl::WakeAll() const {
  for (int kind = 0; kind < kKinds; ++kind) {
    for (int bucket = 0; bucket < buckets_; ++bucket) row(static_cast<Kind>(kind), bucket).Wake();
  }
}

}  // namespace shardstep
