#include "shardstep/comm/mpi/mpi_control.h"

#include <algorithm>
#include <utility>

#include "shardstep/comm/rank_list.h"
#include "shardstep/comm/shm/futex.h"

namespace shardstep {
namespace {

// The first member knows who is missing when a deadline passes: members wait a little longer for it to say so.
constexpr absl::Duration kVerdictGrace = absl::Milliseconds(400);

// What other ranks are told of a failure of `rank`.
absl::Status AsHeardByOthers(int rank, const absl::Status& failure) {
  if (absl::IsAborted(failure)) return failure;
  return AbortedBy(rank, CauseOf(failure), absl::StrCat("failed: ", failure.message()));
}

}  // namespace

MpiControl::MpiControl(int rank, int ranks, std::vector<int> members, const MpiCommunicatorOptions& options,
                       JobState* job)
    : rank_(rank),
      ranks_(ranks),
      members_(std::move(members)),
      options_(options),
      job_(job),
      hub_(static_cast<int>(members_.size()), options.wait_deadline) {}

void MpiControl::Abort(const absl::Status& reason) {
  const absl::Status aborted = AbortedBy(rank_, CauseOf(reason), absl::StrCat("aborted: ", reason.message()));
  job_->Fail(StatusOf(AbortMessage(aborted)));  // cut as others will hear it
  progress_->Wake();
}

void MpiControl::SetAway(absl::Duration duration) {
  job_->SetAway(rank_, duration);
  TellOthers(SmallMessage(SmallMessage::kAway, absl::ToInt64Nanoseconds(duration)));
}

absl::Status MpiControl::AllReduceSmall(SmallReduction* reduction) {
  const int64_t number = reductions_++;
  const int adder = members_.front();
  if (members_.size() == 1) return job_->failure();
  if (rank_ == adder) {
    {
      const MutexLock lock(&job_->mutex());
      hub_.Arrive(0, number, *reduction, MonotonicNs());
    }
    progress_->Wake();
  } else {
    SmallMessage message(SmallMessage::kArrived, number);
    message.reduction = *reduction;
    progress_->SendSmall(adder, message);
  }
  Outcome outcome;
  const auto operation = [number] { return absl::StrCat("AllReduceSmall number ", number); };
  SHARDSTEP_RETURN_IF_ERROR(job_->Await({.deadline = options_.wait_deadline,
                                         .grace = kVerdictGrace,
                                         .operation = operation,
                                         .absent = [&]() -> std::vector<int> {
                                           const auto node = outcomes_.extract(number);
                                           if (node.empty()) return {adder};
                                           outcome = node.mapped();
                                           return {};
                                         }}));
  if (!outcome.absent.empty()) return absl::DeadlineExceededError(absl::StrCat(operation(), ": ", outcome.absent));
  *reduction = outcome.result;
  return absl::OkStatus();
}

void MpiControl::Receive(int rank, const SmallMessage& message) {
  switch (message.kind) {
    case SmallMessage::kAbort:
      failure_heard_ |= job_->Fail(StatusOf(message));
      return;
    case SmallMessage::kAway:
      job_->SetAway(rank, absl::Nanoseconds(message.number));
      if (options_.on_others_away != nullptr) options_.on_others_away(job_->OthersAway(MonotonicNs()));
      return;
    case SmallMessage::kArrived: {
      const auto member = std::find(members_.begin(), members_.end(), rank);
      if (rank_ != members_.front() || member == members_.end()) break;
      const MutexLock lock(&job_->mutex());
      hub_.Arrive(static_cast<int>(member - members_.begin()), message.number, message.reduction, MonotonicNs());
      return;
    }
    case SmallMessage::kReduced:
      return KeepOutcome(message.number, {.result = message.reduction});
    case SmallMessage::kSomeAbsent:
      return KeepOutcome(message.number, {.absent = message.text});
  }
  Broken(absl::InternalError(absl::StrCat("rank ", rank, " sent a message of kind ", message.kind)));
}

void MpiControl::Look() {
  if (options_.other_failure != nullptr && !failure_spread_) job_->Fail(options_.other_failure());
  if (job_->failed()) return SpreadFailure();
  if (rank_ != members_.front() || members_.size() == 1) return;
  const int64_t now_ns = MonotonicNs();
  const int64_t last_away_ns = job_->LastAwayNs(now_ns);
  std::optional<ReductionHub::Outcome> decided;
  {
    const MutexLock lock(&job_->mutex());
    decided = hub_.Poll(now_ns, last_away_ns);
  }
  if (decided.has_value()) SpreadReduction(*decided);
}

void MpiControl::SpreadFailure() {
  if (std::exchange(failure_spread_, true)) return;
  const absl::Status failure = job_->failure();
  if (!failure_heard_) TellOthers(AbortMessage(AsHeardByOthers(rank_, failure)));
  if (options_.on_failure != nullptr) options_.on_failure(failure);
}

void MpiControl::SpreadReduction(const ReductionHub::Outcome& decided) {
  SmallMessage message(decided.absent.empty() ? SmallMessage::kReduced : SmallMessage::kSomeAbsent, decided.number);
  Outcome outcome{.result = decided.result};
  if (decided.absent.empty()) {
    message.reduction = decided.result;
  } else {
    std::vector<int> ranks;
    for (const int member : decided.absent) ranks.push_back(members_[static_cast<size_t>(member)]);
    std::sort(ranks.begin(), ranks.end());
    message.set_text(
        absl::StrCat(RankList(ranks), " did not arrive within ", absl::FormatDuration(options_.wait_deadline)));
    outcome.absent = message.text;
  }
  for (size_t member = 1; member < members_.size(); ++member) progress_->SendSmall(members_[member], message);
  KeepOutcome(decided.number, std::move(outcome));
}

void MpiControl::KeepOutcome(int64_t number, Outcome outcome) {
  {
    const MutexLock lock(&job_->mutex());
    outcomes_[number] = std::move(outcome);
  }
  job_->Changed();
}

void MpiControl::TellOthers(const SmallMessage& message) {
  for (int rank = 0; rank < ranks_; ++rank) {
    if (rank != rank_) progress_->SendSmall(rank, message);
  }
}

}  // namespace shardstep
