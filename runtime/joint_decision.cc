#include "shardstep/runtime/joint_decision.h"

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shardstep/comm/host_stream.h"
#include "shardstep/comm/mutex.h"
#include "shardstep/runtime/joint_table.h"
#include "shardstep/runtime/other_optimizers.h"
#include "shardstep/runtime/sharded_optimizer_impl.h"

namespace shardstep {
namespace {

// How often those who wait look whether they wait in vain.
constexpr std::chrono::milliseconds kLookInterval(20);

constexpr int kJointFields = 4;

// What all members must have alike, besides what each one's ranks must.
std::array<AgreedField, kJointFields> JointFields(const DecisionInput& input) {
  return {{{"number of Step calls", static_cast<uint64_t>(input.counters.step)},
           {"consecutive skips", static_cast<uint64_t>(input.counters.consecutive_skips)},
           {"divisor", std::bit_cast<uint64_t>(EffectiveDivisor(input.arguments))},
           {"max_norm", std::bit_cast<uint64_t>(input.arguments.max_norm.value_or(0))}}};
}

GradientPlace Shift(GradientPlace place, int64_t elements) {
  return place == kNowhere ? place : place + static_cast<uint64_t>(elements);
}

}  // namespace

/// The meeting point of one rank's members. Each of them shares it; the last one takes it along.
class JointDecision {
 public:
  JointDecision(std::unique_ptr<Communicator> communicator, JointTable table, const std::vector<JointMember>& members)
      : communicator_(std::move(communicator)), table_(std::move(table)) {
    for (size_t i = 0; i < members.size(); ++i) {
      const ShardedOptimizer& optimizer = *members[i].optimizer;
      members_.push_back({.index = table_.member(communicator_->rank(), static_cast<int>(i)),
                          .rank = optimizer.rank(),
                          .deadline = optimizer.impl_->options_.wait_deadline});
      states_.push_back({.work = optimizer.impl_.get()});
    }
  }

  static absl::Status Create(std::unique_ptr<Communicator> communicator, Rendezvous& rendezvous,
                             const std::vector<JointMember>& members);

  // What each member i sees of the others; as in other_optimizers.h.
  void StepCalled(int i);
  absl::StatusOr<Findings> Join(int i, const DecisionInput& input, const SmallReduction& own);
  void Abort(int i, const absl::Status& reason);
  void SetAway(absl::Duration duration);
  void Leave(int i);

 private:
  struct Member {
    int index = 0;  // in the table
    int rank = 0;   // in the optimizer
    absl::Duration deadline;
  };
  struct State {
    ShardedOptimizer::Impl* work = nullptr;  // nullptr: has left
    int64_t steps_called = 0;                // since creation, as `joined`
    int64_t joined = 0;
  };
  struct Arrival {
    int64_t round = 0;
    std::optional<SmallReduction> sum;  // of all parts, for who comes last
  };

  static absl::Status Check(const Communicator* communicator, const Rendezvous& rendezvous,
                            const std::vector<JointMember>& members);
  static std::vector<JointEntry> Entries(const std::vector<JointMember>& members);

  std::string QuotedName(int i) const { return Quoted(table_.name(members_[i].index)); }
  SmallReduction PartOf(const Member& member, const DecisionInput& input, const SmallReduction& own) const;
  Arrival Arrive(int i, const SmallReduction& part);
  absl::StatusOr<Findings> Await(int i, int64_t round);
  absl::Status LookForFailure(int waiting, int64_t round, absl::Time since) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Findings> Complete(SmallReduction sum);
  void AbortAll(const absl::Status& reason);
  absl::StatusOr<Findings> Reduce(SmallReduction sum);

  const std::unique_ptr<Communicator> communicator_;
  const JointTable table_;
  std::vector<Member> members_;
  InlineStream stream_;  // of who comes last

  Mutex mutex_;
  std::condition_variable progress_;
  std::vector<State> states_ ABSL_GUARDED_BY(mutex_);
  SmallReduction part_ ABSL_GUARDED_BY(mutex_) = NeutralPart();  // of those who have come to this round
  size_t arrived_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t rounds_ ABSL_GUARDED_BY(mutex_) = 0;  // complete
  // Of the last round. The next one is not complete before all have taken these, as each comes to it after that.
  Findings findings_ ABSL_GUARDED_BY(mutex_);
  absl::Time away_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

namespace {

/// One member's view of a JointDecision.
class Others : public OtherOptimizers {
 public:
  Others(std::shared_ptr<JointDecision> decision, int i) : decision_(std::move(decision)), i_(i) {}
  void StepCalled() override { decision_->StepCalled(i_); }
  absl::StatusOr<Findings> Join(const DecisionInput& input, const SmallReduction& own) override {
    return decision_->Join(i_, input, own);
  }
  void Abort(const absl::Status& reason) override { decision_->Abort(i_, reason); }
  void SetAway(absl::Duration duration) override { decision_->SetAway(duration); }
  void Leave() override { decision_->Leave(i_); }

 private:
  const std::shared_ptr<JointDecision> decision_;
  const int i_;
};

}  // namespace

// ---- Creation ------------------------------------------------------------------------------------------------------

absl::Status JoinDecisions(std::unique_ptr<Communicator> communicator, Rendezvous* rendezvous,
                           const std::vector<JointMember>& members) {
  if (rendezvous == nullptr) return absl::InvalidArgumentError("JoinDecisions: the rendezvous must not be null");
  return JointDecision::Create(std::move(communicator), *rendezvous, members);
}

absl::Status JointDecision::Create(std::unique_ptr<Communicator> communicator, Rendezvous& rendezvous,
                                   const std::vector<JointMember>& members) {
  SHARDSTEP_RETURN_IF_ERROR(
      AgreeOnStatus(rendezvous, "JoinDecisions", Check(communicator.get(), rendezvous, members), kMeetingDeadline));
  SHARDSTEP_ASSIGN_OR_RETURN(
      const std::vector<std::string> texts,
      rendezvous.AllGatherBytes("JoinDecisions: members", EncodeEntries(Entries(members)), kMeetingDeadline));
  std::vector<std::vector<JointEntry>> entries;
  for (const std::string& text : texts) {
    SHARDSTEP_ASSIGN_OR_RETURN(entries.emplace_back(), DecodeEntries(text));
  }
  SHARDSTEP_ASSIGN_OR_RETURN(JointTable table, JointTable::Create(entries));
  SHARDSTEP_RETURN_IF_ERROR(
      AgreeOnStatus(rendezvous, "JoinDecisions: communicator", communicator->Allocate({}), kMeetingDeadline));
  const auto decision = std::make_shared<JointDecision>(std::move(communicator), std::move(table), members);
  for (size_t i = 0; i < members.size(); ++i) {
    SHARDSTEP_RETURN_IF_ERROR(
        members[i].optimizer->impl_->DecideWith(std::make_unique<Others>(decision, static_cast<int>(i))));
  }
  return absl::OkStatus();
}

absl::Status JointDecision::Check(const Communicator* communicator, const Rendezvous& rendezvous,
                                  const std::vector<JointMember>& members) {
  if (communicator == nullptr) {
    return absl::InvalidArgumentError("JoinDecisions: the communicator must not be null");
  }
  if (communicator->rank() != rendezvous.rank() || communicator->world_size() != rendezvous.world_size()) {
    return absl::InvalidArgumentError(absl::StrCat("JoinDecisions: the communicator is rank ", communicator->rank(),
                                                   " of ", communicator->world_size(), ", the rendezvous rank ",
                                                   rendezvous.rank(), " of ", rendezvous.world_size()));
  }
  if (members.empty()) return absl::InvalidArgumentError("JoinDecisions: no members");
  std::set<std::string> names;
  std::set<const ShardedOptimizer*> optimizers;
  for (const JointMember& member : members) {
    if (member.name.empty()) return absl::InvalidArgumentError("JoinDecisions: a member without a name");
    if (member.optimizer == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("JoinDecisions: ", Quoted(member.name), " has no optimizer"));
    }
    if (!names.insert(member.name).second || !optimizers.insert(member.optimizer).second) {
      return absl::InvalidArgumentError(absl::StrCat("JoinDecisions: ", Quoted(member.name), " is given twice"));
    }
    ShardedOptimizer::Impl& impl = *member.optimizer->impl_;
    if (impl.others_ != nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat("JoinDecisions: ", Quoted(member.name), " decides with others already"));
    }
    // The ranks of all members meet in work on a stream.
    if (dynamic_cast<HostStream*>(impl.update_.get()) == nullptr) {
      return absl::UnimplementedError(
          absl::StrCat("JoinDecisions: ", Quoted(member.name), " is on ", impl.device_.name(), ", not on CPUs"));
    }
    SHARDSTEP_RETURN_IF_ERROR(Annotate(impl.scheduler_->Settle("JoinDecisions"), Quoted(member.name)));
    SHARDSTEP_RETURN_IF_ERROR(Annotate(impl.scheduler_->CheckBetweenSteps("JoinDecisions"), Quoted(member.name)));
  }
  return absl::OkStatus();
}

std::vector<JointEntry> JointDecision::Entries(const std::vector<JointMember>& members) {
  std::vector<JointEntry> entries;
  for (const JointMember& member : members) {
    const ShardedOptimizer& optimizer = *member.optimizer;
    entries.push_back(MakeJointEntry(member.name, optimizer.rank(), optimizer.layout(), optimizer.impl_->options_));
  }
  return entries;
}

// ---- A step --------------------------------------------------------------------------------------------------------

void JointDecision::StepCalled(int i) {
  const MutexLock lock(&mutex_);
  ++states_[i].steps_called;
}

absl::StatusOr<Findings> JointDecision::Join(int i, const DecisionInput& input, const SmallReduction& own) {
  const Arrival arrival = Arrive(i, PartOf(members_[i], input, own));
  return arrival.sum ? Complete(*arrival.sum) : Await(i, arrival.round);
}

JointDecision::Arrival JointDecision::Arrive(int i, const SmallReduction& part) {
  const MutexLock lock(&mutex_);
  Arrival arrival{.round = states_[i].joined++, .sum = std::nullopt};
  part_.Merge(part);
  if (++arrived_ < states_.size()) return arrival;
  arrived_ = 0;
  arrival.sum = std::exchange(part_, NeutralPart());
  return arrival;
}

// A total counts once: its first rank has it.
SmallReduction JointDecision::PartOf(const Member& member, const DecisionInput& input,
                                     const SmallReduction& own) const {
  SmallReduction part = NeutralPart();
  if (member.rank == 0) {
    ScanResult scan = TakeScan(own);
    scan.first_nonfinite = Shift(scan.first_nonfinite, table_.begin_element(member.index));
    scan.first_overflow = Shift(scan.first_overflow, table_.begin_element(member.index));
    PutScan(scan, &part);
  }
  if (std::optional<Objection> objection = FindObjection(own)) {
    objection->member = member.index;
    PutObjection(*objection, &part);
  }
  PutAgreed(JointFields(input), table_.seat(member.index, member.rank), &part);
  return part;
}

absl::StatusOr<Findings> JointDecision::Complete(SmallReduction sum) {
  absl::StatusOr<Findings> findings = Reduce(sum);
  if (!findings.ok()) {
    AbortAll(findings.status());
    return findings;
  }
  const MutexLock lock(&mutex_);
  findings_ = *findings;
  ++rounds_;
  progress_.notify_all();
  return findings;
}

absl::StatusOr<Findings> JointDecision::Reduce(SmallReduction sum) {
  SHARDSTEP_RETURN_IF_ERROR(communicator_->AllReduceSmall(&sum, stream_));
  SHARDSTEP_RETURN_IF_ERROR(Annotate(stream_.Synchronize(stream_.Record()), "joint decision"));
  Findings findings;
  findings.scan = TakeScan(sum);
  if (const std::optional<FoundPlace> place = FirstPlace(findings.scan)) findings.non_finite = table_.Locate(*place);
  if (const std::optional<Objection> objection = TakeObjection(sum)) {
    findings.refused = table_.Refusal(*objection);
  } else if (const std::optional<Objection> difference = FindDifference(kJointFields, sum)) {
    findings.refused = absl::FailedPreconditionError(absl::StrCat(
        table_.DescribeSeat(difference->first), " and ", table_.DescribeSeat(static_cast<int>(difference->other)),
        " called Step with different ", JointFields({})[difference->what].name, "; nothing was updated"));
  }
  return findings;
}

absl::StatusOr<Findings> JointDecision::Await(int i, int64_t round) {
  const absl::Time since = absl::Now();
  absl::Status failure;
  {
    MutexLock lock(&mutex_);
    while (rounds_ == round && failure.ok()) {
      progress_.wait_for(lock.lock(), kLookInterval);
      if (rounds_ == round) failure = LookForFailure(i, round, since);
    }
    if (failure.ok()) return findings_;
  }
  AbortAll(failure);
  return failure;
}

absl::Status JointDecision::LookForFailure(int waiting, int64_t round, absl::Time since) const {
  SHARDSTEP_RETURN_IF_ERROR(communicator_->AsyncStatus());
  const absl::Duration deadline = members_[waiting].deadline;
  const bool late = absl::Now() >= std::max(since, away_until_) + deadline;
  for (size_t i = 0; i < states_.size(); ++i) {
    const State& other = states_[i];
    const std::string name = QuotedName(static_cast<int>(i));
    if (other.joined > round) continue;
    if (other.work == nullptr) return absl::AbortedError(absl::StrCat("the optimizer ", name, " was destroyed"));
    const absl::Status status = other.work->WorkStatus();
    if (!status.ok()) {
      return WithCause(absl::AbortedError(absl::StrCat(name, ": ", status.message())), CauseOf(status));
    }
    // Once its Step is called, its own waits have deadlines.
    if (!late || other.steps_called > round) continue;
    return absl::DeadlineExceededError(absl::StrCat("rank ", communicator_->rank(), " did not call Step of ", name,
                                                    " within ", absl::FormatDuration(deadline), ", while that of ",
                                                    QuotedName(waiting), " waits for their joint decision"));
  }
  return absl::OkStatus();
}

// ---- Ends ----------------------------------------------------------------------------------------------------------

void JointDecision::Abort(int i, const absl::Status& reason) { AbortAll(Annotate(reason, QuotedName(i))); }

// Other ranks may wait for any of this rank's optimizers, in waits of that optimizer alone.
void JointDecision::AbortAll(const absl::Status& reason) {
  communicator_->Abort(reason);
  const MutexLock lock(&mutex_);
  for (const State& state : states_) {
    if (state.work != nullptr) state.work->AbortAlone(reason);
  }
}

void JointDecision::SetAway(absl::Duration duration) {
  communicator_->SetAway(duration);
  const MutexLock lock(&mutex_);
  away_until_ = absl::Now() + duration;
}

void JointDecision::Leave(int i) {
  const MutexLock lock(&mutex_);
  states_[i].work = nullptr;
}

}  // namespace shardstep
