#include "shardstep/comm/nccl/nccl_watch.h"

#include <algorithm>
#include <utility>

#include "shardstep/comm/rank_list.h"

namespace shardstep {
namespace {

// A heart that does not beat is a process that is stopped or gone. Longer than an operation's deadline, whose message
// says more.
constexpr absl::Duration kHeartbeatGrace = absl::Seconds(10);
constexpr absl::Duration kFarewell = absl::Seconds(5);
// Time between two looks counts up to this: a process that was stopped itself does not blame the others.
constexpr absl::Duration kLongestLook = absl::Seconds(1);
// The latest moment that does not overflow the clock's arithmetic.
constexpr absl::Duration kForever = absl::Hours(24 * 365);

std::chrono::steady_clock::time_point FromNow(absl::Duration duration) {
  return std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(std::min(duration, kForever));
}

absl::Status LeftError(const Departure& departure) {
  return AbortedBy(departure.rank, absl::StatusCode::kAborted, "has left");
}

}  // namespace

bool NcclFailure::Set(const absl::Status& mine, const absl::Status& told) {
  const MutexLock lock(&mutex_);
  if (!mine_.ok()) return false;
  mine_ = mine;
  told_ = told;
  return true;
}

absl::Status NcclFailure::status() const {
  const MutexLock lock(&mutex_);
  return mine_;
}

absl::Status NcclFailure::told() const {
  const MutexLock lock(&mutex_);
  return told_;
}

NcclWatch::NcclWatch(const CudaDeviceRef& device, Rendezvous& rendezvous, NcclLink& link, OperationQueue& queue,
                     std::shared_ptr<NcclFailure> failure, const NcclWatchOptions& options)
    : device_(device),
      rendezvous_(rendezvous),
      link_(link),
      queue_(queue),
      failure_(std::move(failure)),
      options_(options),
      last_look_(Clock::now()),
      thread_([this] { Run(); }) {}

NcclWatch::~NcclWatch() {
  {
    const MutexLock lock(&mutex_);
    leaves_ = true;
    Wake();
  }
  thread_.join();
}

std::vector<int> NcclWatch::Names(const std::vector<int>& ranks) const {
  if (options_.rank_names.empty()) return ranks;
  std::vector<int> names;
  for (const int rank : ranks) names.push_back(options_.rank_names[static_cast<size_t>(rank)]);
  return names;
}

void NcclWatch::Wake() {
  woken_ = true;
  wake_.notify_all();
  changed_.notify_all();
}

// The reason first: whoever goes on because of the abort finds it.
void NcclWatch::Die(const absl::Status& mine, const absl::Status& told) {
  if (!failure_->Set(mine, told)) return;
  link_.Revoke();
  const MutexLock lock(&mutex_);
  Wake();
}

void NcclWatch::Fail(const absl::Status& status) {
  Die(status, AbortedBy(own_name(), CauseOf(status), absl::StrCat("failed: ", status.message())));
}

void NcclWatch::Abort(const absl::Status& reason) {
  const absl::Status status = AbortedBy(own_name(), CauseOf(reason), absl::StrCat("aborted: ", reason.message()));
  Die(status, status);
}

void NcclWatch::SetAway(absl::Duration duration) {
  const MutexLock lock(&mutex_);
  away_until_ = FromNow(std::max(duration, absl::ZeroDuration()));
  Wake();
}

// ---- The rendezvous -------------------------------------------------------------------------------------------------

absl::Status NcclWatch::Borrow(absl::string_view what) {
  const auto end = FromNow(options_.setup_deadline);
  absl::Status failure;
  {
    MutexLock lock(&mutex_);
    wants_rendezvous_ = true;
    Wake();
    bool late = false;
    while (meetings_ == Meetings::kGoOn && failure_->status().ok() && !late) {
      late = changed_.wait_until(lock.lock(), end) == std::cv_status::timeout;
    }
    if (meetings_ == Meetings::kLent) return absl::OkStatus();
    wants_rendezvous_ = false;
    failure = failure_->status();
    if (failure.ok() && meetings_ == Meetings::kOver) failure = LeftError(departure_);
    if (failure.ok()) {
      failure = absl::DeadlineExceededError(absl::StrCat(what, ": ", RankList(not_wanting_), " did not arrive within ",
                                                         absl::FormatDuration(options_.setup_deadline)));
    }
  }
  Fail(failure);
  return failure;
}

void NcclWatch::Return() {
  const MutexLock lock(&mutex_);
  wants_rendezvous_ = false;
  if (meetings_ == Meetings::kLent) meetings_ = Meetings::kGoOn;
  last_look_ = Clock::now();
  Wake();
}

// ---- The thread -----------------------------------------------------------------------------------------------------

void NcclWatch::Run() {
  device_.api->SetDevice(device_.device);
  bool goes_on = true;
  while (goes_on) {
    Pause();
    if (options_.other_failure) AdoptFailure(options_.other_failure());
    const Heartbeat mine = Look();
    goes_on = Meet(mine) && !mine.leaves;
  }
  const absl::Status failure = failure_->told();
  if (!failure.ok() && options_.on_failure) options_.on_failure(failure);
}

// It has named a rank of the job already.
void NcclWatch::AdoptFailure(const absl::Status& other) {
  if (!other.ok()) Die(other, other);
}

void NcclWatch::Pause() {
  MutexLock lock(&mutex_);
  const auto next = FromNow(options_.heartbeat);
  while (!woken_ && wake_.wait_until(lock.lock(), next) == std::cv_status::no_timeout) {
  }
  while (meetings_ == Meetings::kLent) wake_.wait(lock.lock());
  woken_ = false;
}

Heartbeat NcclWatch::Look() {
  Heartbeat state;
  absl::Status broken;
  if (failure_->status().ok()) {
    broken = link_.Poll().status();
    const absl::StatusOr<OperationQueue::Progress> progress = queue_.Look();
    if (broken.ok()) broken = progress.status();
    const MutexLock lock(&mutex_);
    if (progress.ok()) {
      state.arrived = progress->arrived;
      state.finished = progress->finished;
      RunDeadline(*progress, &state);
      const bool needs_who_left =
          departure_.rank >= 0 && progress->issued > std::max(progress->finished, departure_.finished);
      if (broken.ok() && needs_who_left) broken = LeftError(departure_);
    }
  }
  if (!broken.ok()) Fail(broken);
  state.failure = failure_->told();
  if (options_.other_away) state.other_away = std::clamp(options_.other_away(), absl::ZeroDuration(), kForever);
  const MutexLock lock(&mutex_);
  state.leaves = leaves_;
  state.wants_rendezvous = wants_rendezvous_;
  state.away = std::max(absl::FromChrono(away_until_ - Clock::now()), absl::ZeroDuration());
  return state;
}

void NcclWatch::RunDeadline(const OperationQueue::Progress& progress, Heartbeat* state) {
  const auto now = Clock::now();
  const absl::Duration elapsed = std::min(absl::FromChrono(now - last_look_), options_.heartbeat + kLongestLook);
  last_look_ = now;
  const int64_t waiting_in = progress.waiting.has_value() ? progress.finished : -1;
  if (waiting_in != std::exchange(waiting_in_, waiting_in)) {
    waited_ = absl::ZeroDuration();
  } else if (now >= away_until_ && now >= others_away_until_) {
    waited_ += elapsed;
  }
  if (waiting_in < 0 || waited_ < options_.wait_deadline) return;
  state->expired = waiting_in;
  state->expired_name = progress.waiting->Name();
}

absl::StatusOr<std::vector<Heartbeat>> NcclWatch::Gather(const Heartbeat& mine) {
  const absl::Duration deadline = mine.leaves ? kFarewell : options_.wait_deadline + kHeartbeatGrace;
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                             rendezvous_.AllGatherBytes("NCCL heartbeat", Encode(mine), deadline));
  std::vector<Heartbeat> states;
  for (const std::string& bytes : all) {
    SHARDSTEP_ASSIGN_OR_RETURN(Heartbeat state, DecodeHeartbeat(bytes));
    states.push_back(std::move(state));
  }
  return states;
}

bool NcclWatch::Meet(const Heartbeat& mine) {
  bool meets = false;
  {
    const MutexLock lock(&mutex_);
    meets = meetings_ != Meetings::kOver;
  }
  // Once somebody has left, everyone is alone with what it knows.
  if (!meets) return Conclude({mine});
  const absl::StatusOr<std::vector<Heartbeat>> states = Gather(mine);
  if (states.ok()) return Conclude(*states);
  if (!mine.leaves) Die(states.status(), states.status());
  return false;
}

bool NcclWatch::Conclude(const std::vector<Heartbeat>& states) {
  const Verdict verdict = Judge(states, options_.wait_deadline, options_.rank_names);
  if (!verdict.failure.ok()) {
    Die(verdict.failure, verdict.failure);
    return false;
  }
  const bool all = static_cast<int>(states.size()) == rendezvous_.world_size();
  if (!all) return true;
  if (options_.on_away) options_.on_away(verdict.away);
  const MutexLock lock(&mutex_);
  others_away_until_ = FromNow(std::max(verdict.away, verdict.other_away));
  not_wanting_.clear();
  for (size_t rank = 0; rank < states.size(); ++rank) {
    if (!states[rank].wants_rendezvous) not_wanting_.push_back(static_cast<int>(rank));
  }
  not_wanting_ = Names(not_wanting_);
  if (verdict.departure.rank >= 0) {
    departure_ = verdict.departure;
    meetings_ = Meetings::kOver;
    changed_.notify_all();
  } else if (verdict.all_want_rendezvous && wants_rendezvous_) {
    meetings_ = Meetings::kLent;
    changed_.notify_all();
  }
  return true;
}

}  // namespace shardstep
