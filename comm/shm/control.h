#ifndef SHARDSTEP_COMM_SHM_CONTROL_H_
#define SHARDSTEP_COMM_SHM_CONTROL_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/status.h"

/// What ranks of one host write to each other beside gradients and weights. The structs lie in zero-filled shared
/// memory, and zero is their initial state; every rank is built from the same sources (Create compares kControlLayout).

namespace shardstep {

inline constexpr int kControlLayout = 3;
inline constexpr size_t kCacheLineBytes = 64;

/// What sleepers of one purpose sleep on. `sequence` changes whenever they are to look again.
struct alignas(kCacheLineBytes) WaitWord {
  std::atomic<uint32_t> sequence;
  std::atomic<uint32_t> waiters;
};

/// How far one rank is. Written by that rank only, never decreasing.
struct alignas(kCacheLineBytes) Counter {
  std::atomic<int64_t> value;
};

/// One counter per rank and the word on which ranks sleep until all counters have reached a value.
struct CounterRow {
  WaitWord* word = nullptr;
  Counter* counters = nullptr;
  int world_size = 0;

  int64_t value(int rank) const { return counters[rank].value.load(); }
  /// Sets the counter of `rank`, and wakes sleepers only if there are any and the smallest counter has changed.
  void Advance(int rank, int64_t value) const;
  bool AllReached(int64_t value) const;
  std::vector<int> Absent(int64_t value) const;
  void Wake() const;
};

struct RankControl {
  alignas(kCacheLineBytes) SmallReduction slots[2];             ///< of the small all-reduces, by parity
  alignas(kCacheLineBytes) std::atomic<int64_t> away_until_ns;  ///< CLOCK_MONOTONIC; past: when it was last away
};

/// State of the job: abort, away, the small all-reduce. A view; all members are safe from every thread and process.
class JobControl {
 public:
  static int64_t SizeBytes(int world_size);

  JobControl() = default;
  /// `rank_names`: what messages call the ranks, equal on all of them; empty: 0, 1, ...
  JobControl(BufferView memory, int world_size, std::vector<int> rank_names = {});

  /// The first call of the job wins. Wakes those who wait for a small all-reduce.
  void Abort(int rank, const absl::Status& reason) const;
  /// OK, or Aborted naming the rank and its reason, with that reason's cause.
  absl::Status AbortStatus() const;

  void SetAway(int rank, absl::Duration duration) const;
  /// The last moment, at most `now_ns`, at which any rank was away; 0 if none ever was.
  int64_t LastAwayNs(int64_t now_ns) const;

  /// Counts the small all-reduces that each rank has contributed to.
  CounterRow reduced() const;
  SmallReduction& slot(int rank, int64_t number) const;
  /// What messages call `rank`.
  int NameOf(int rank) const { return rank_names_.empty() ? rank : rank_names_[static_cast<size_t>(rank)]; }

 private:
  struct Memory;
  RankControl& rank_control(int rank) const;

  Memory* memory_ = nullptr;
  Counter* reduced_ = nullptr;
  RankControl* ranks_ = nullptr;
  int world_size_ = 0;
  std::vector<int> rank_names_;
};

/// Blocks until every counter of `row` has reached `value`: a few yields, then sleep. After an abort Aborted, at once
/// and always. DeadlineExceeded, naming `operation` and the absent ranks, when `deadline` has passed since the later of
/// this call and the last moment any rank was away.
absl::Status AwaitCounters(const JobControl& job, const CounterRow& row, int64_t value, absl::Duration deadline,
                           absl::FunctionRef<std::string()> operation);

/// Three counter rows per bucket: exchanged and released count micro-steps, published counts steps.
class BucketControl {
 public:
  enum Kind { kExchanged, kReleased, kPublished };
  static constexpr int kKinds = 3;

  static int64_t SizeBytes(int buckets, int world_size);

  BucketControl() = default;
  BucketControl(BufferView memory, int buckets, int world_size);

  CounterRow row(Kind kind, int bucket) const;
  void WakeAll() const;

 private:
  WaitWord* words_ = nullptr;
  Counter* counters_ = nullptr;
  int buckets_ = 0;
  int world_size_ = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_SHM_CONTROL_H_
