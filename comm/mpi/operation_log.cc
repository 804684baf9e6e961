#include "shardstep/comm/mpi/operation_log.h"

#include <algorithm>

namespace shardstep {
namespace {

bool AllZero(const std::vector<int>& counts) {
  return std::all_of(counts.begin(), counts.end(), [](int count) { return count == 0; });
}

}  // namespace

OperationLog::OperationLog(int buckets, std::string unit)
    : unit_(std::move(unit)), begun_(static_cast<size_t>(buckets), 0) {}

std::string OperationLog::Name(absl::string_view operation, int bucket, int64_t number) const {
  return absl::StrCat(operation, " of bucket ", bucket, ", ", unit_, " ", number);
}

bool OperationLog::begun(int bucket, int64_t number) const { return begun_[static_cast<size_t>(bucket)] > number; }

absl::Status OperationLog::Begin(absl::string_view operation, int bucket, int64_t number,
                                 std::shared_ptr<Transfer> transfer) {
  if (begun(bucket, number)) {
    return absl::FailedPreconditionError(absl::StrCat(Name(operation, bucket, number), ": ", unit_, " ",
                                                      begun_[static_cast<size_t>(bucket)] - 1, " is already done"));
  }
  ForgetFinished(bucket);
  begun_[static_cast<size_t>(bucket)] = number + 1;
  transfers_[{bucket, number}] = std::move(transfer);
  return absl::OkStatus();
}

void OperationLog::ForgetFinished(int bucket) {
  auto transfer = transfers_.lower_bound({bucket, 0});
  while (transfer != transfers_.end() && transfer->first.first == bucket) {
    const bool finished = AllZero(transfer->second->receiving) && AllZero(transfer->second->sending);
    transfer = finished ? transfers_.erase(transfer) : std::next(transfer);
  }
}

std::vector<int> OperationLog::NotReceived(int bucket, int64_t number, int self) const {
  return Waiting(bucket, number, self, &Transfer::receiving);
}

std::vector<int> OperationLog::NotTaken(int bucket, int64_t number, int self) const {
  return Waiting(bucket, number, self, &Transfer::sending);
}

std::vector<int> OperationLog::Waiting(int bucket, int64_t number, int self, std::vector<int> Transfer::*counts) const {
  if (!begun(bucket, number)) return {self};
  const auto transfer = transfers_.find({bucket, number});
  if (transfer == transfers_.end()) return {};
  std::vector<int> members;
  const std::vector<int>& waiting = (*transfer->second).*counts;
  for (size_t member = 0; member < waiting.size(); ++member) {
    if (waiting[member] > 0) members.push_back(static_cast<int>(member));
  }
  return members;
}

bool LandingRing::Free(int bucket, int64_t micro_step) {
  for (User& user : users_) {
    if (user.bucket != bucket || user.micro_step != micro_step) continue;
    user = User();
    return true;
  }
  return false;
}

}  // namespace shardstep
