#ifndef SHARDSTEP_COMM_MPI_OPERATION_LOG_H_
#define SHARDSTEP_COMM_MPI_OPERATION_LOG_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "shardstep/comm/mpi/data_plan.h"
#include "shardstep/comm/status.h"

namespace shardstep {

/// The operations of one kind, by bucket and number: which this rank has begun, and whom they still wait for. Knows no
/// MPI; one thread at a time (the mutex of the JobState).
class OperationLog {
 public:
  /// `unit`: what numbers count, for messages.
  OperationLog(int buckets, std::string unit);

  /// In ascending order of numbers per bucket, else FailedPrecondition names `operation` and the last number.
  absl::Status Begin(absl::string_view operation, int bucket, int64_t number, std::shared_ptr<Transfer> transfer);
  bool begun(int bucket, int64_t number) const;

  /// Members whose messages have not come, or which have not taken ours. Of an operation that this rank has not begun
  /// nothing is known: `self`.
  std::vector<int> NotReceived(int bucket, int64_t number, int self) const;
  std::vector<int> NotTaken(int bucket, int64_t number, int self) const;

  /// "AwaitSlices of bucket 3, micro-step 7".
  std::string Name(absl::string_view operation, int bucket, int64_t number) const;

 private:
  using Key = std::pair<int, int64_t>;

  std::vector<int> Waiting(int bucket, int64_t number, int self, std::vector<int> Transfer::*counts) const;
  void ForgetFinished(int bucket);

  std::string unit_;
  std::vector<int64_t> begun_;                          ///< by bucket: one more than the last number
  std::map<Key, std::shared_ptr<Transfer>> transfers_;  ///< begun, and perhaps not finished
};

/// Who uses the slots of the landing memory: exchange n the slot n mod their number, until it is released. One thread
/// at a time.
class LandingRing {
 public:
  explicit LandingRing(int slots) : users_(static_cast<size_t>(slots)) {}

  struct User {
    int bucket = -1;  ///< -1: nobody
    int64_t micro_step = 0;
  };
  /// The slot of the next exchange.
  int Next() { return static_cast<int>(exchanges_++ % static_cast<int64_t>(users_.size())); }
  const User& user(int slot) const { return users_[static_cast<size_t>(slot)]; }
  bool is_free(int slot) const { return user(slot).bucket < 0; }
  void Take(int slot, const User& user) { users_[static_cast<size_t>(slot)] = user; }
  /// False when no slot is used by it.
  bool Free(int bucket, int64_t micro_step);

 private:
  std::vector<User> users_;
  int64_t exchanges_ = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_MPI_OPERATION_LOG_H_
