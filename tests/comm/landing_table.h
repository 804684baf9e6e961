#ifndef SHARDSTEP_TESTS_COMM_LANDING_TABLE_H_
#define SHARDSTEP_TESTS_COMM_LANDING_TABLE_H_

/// What the ranks of landing communicators share, guarded by one mutex.

#include <array>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/numbers.h"
#include "absl/time/time.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/mutex.h"
#include "shardstep/comm/rendezvous.h"

namespace shardstep {

constexpr int kLandingSlots = 2;

/// Of all ranks of a job.
class LandingJob {
 public:
  explicit LandingJob(int world_size) : away_until_(static_cast<size_t>(world_size)) {}

  Mutex& mutex() { return mutex_; }
  /// The first failure wins.
  void Fail(const absl::Status& failure);
  absl::Status failure();
  void SetAway(int rank, absl::Duration duration);

  /// Everything below: with mutex() held.
  void NotifyAll() { changed_.notify_all(); }
  const absl::Status& FailureLocked() const { return failure_; }
  /// Until `absent` returns no rank (by its name), the job fails, or `deadline` has passed since the later of this call
  /// and the last moment any rank was away.
  absl::Status Await(MutexLock& lock, absl::Duration deadline, absl::FunctionRef<std::string()> operation,
                     absl::FunctionRef<std::vector<int>()> absent);

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point LastAway(Clock::time_point now) const;

  Mutex mutex_;
  std::condition_variable changed_;
  absl::Status failure_;
  std::vector<Clock::time_point> away_until_;  ///< by rank
};

/// Where one exchange lands with its owner.
struct LandingSlot {
  int64_t next = 0;              ///< the number of the exchange that may land here
  std::vector<int64_t> arrived;  ///< by sender: the last exchange whose slices it has copied here
  std::vector<std::byte> bytes;  ///< written without the mutex by senders and the releasing owner, in turn
};

struct LandingRank {
  std::array<LandingSlot, kLandingSlots> slots;
  std::byte* weights = nullptr;
  std::shared_ptr<Buffer> own_weights;  ///< unless they were given
  std::vector<int64_t> sent;            ///< by bucket: micro-steps whose exchange has been copied to all owners
  std::vector<int64_t> published;       ///< by bucket: steps
  int64_t reduced = 0;
  std::array<SmallReduction, 2> reductions;  ///< by parity of their number
};

/// Of the ranks of one communicator. Guarded by the mutex of its job.
struct LandingGroup {
  explicit LandingGroup(int world_size) : ranks(static_cast<size_t>(world_size)) {}

  std::vector<LandingRank> ranks;
  std::vector<std::pair<int, int64_t>> order;  ///< of the exchanges: bucket and micro-step
};

/// Collective among threads of one process: every rank gets what rank 0 has made.
template <typename T>
absl::StatusOr<std::shared_ptr<T>> ShareObject(Rendezvous& rendezvous, absl::string_view what, std::shared_ptr<T> made,
                                               absl::Duration deadline) {
  const auto address = static_cast<uint64_t>(reinterpret_cast<uintptr_t>(&made));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> addresses,
                             rendezvous.AllGatherBytes(what, absl::StrCat(address), deadline));
  uint64_t first = 0;
  if (!absl::SimpleAtoi(addresses[0], &first)) return absl::InternalError("no address");
  std::shared_ptr<T> shared = *reinterpret_cast<const std::shared_ptr<T>*>(static_cast<uintptr_t>(first));
  // The original lives on rank 0's stack until all have their copy.
  SHARDSTEP_RETURN_IF_ERROR(rendezvous.AllGatherBytes(absl::StrCat(what, ": taken"), "", deadline).status());
  return shared;
}

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_COMM_LANDING_TABLE_H_
