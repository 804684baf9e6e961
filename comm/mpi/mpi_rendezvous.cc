#include "shardstep/comm/mpi/mpi_rendezvous.h"

#include <atomic>
#include <utility>

#include "shardstep/comm/mpi/mpi_rendezvous_impl.h"
#include "shardstep/comm/mpi/mpi_rendezvous_of_comm.h"

namespace shardstep {
namespace {

// On the caller's communicator, which others use too.
constexpr int kFirstMeetingTag = 22'359;
// On the duplicate; the next one belongs to MpiExchange too.
constexpr int kMessageTag = 0;
constexpr int kFirstFreeTag = 2;

// MPI is one per process: where Create has initialized it, the last rendezvous that Create made finalizes it.
std::atomic<bool> initialized_here = false;
std::atomic<int> using_it = 0;

// While it lives, errors on `comm` are returned instead of ending the process.
class ErrorsReturned {
 public:
  explicit ErrorsReturned(MPI_Comm comm) : comm_(comm) {
    MPI_Comm_get_errhandler(comm_, &before_);
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
  }
  ~ErrorsReturned() {
    MPI_Comm_set_errhandler(comm_, before_);
    MPI_Errhandler_free(&before_);
  }
  ErrorsReturned(const ErrorsReturned&) = delete;
  ErrorsReturned& operator=(const ErrorsReturned&) = delete;

 private:
  const MPI_Comm comm_;
  MPI_Errhandler before_ = MPI_ERRHANDLER_NULL;
};

absl::Status CheckNotFinalized(absl::string_view caller) {
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (finalized == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(caller, ": MPI is finalized already"));
}

bool IsInitialized() {
  int initialized = 0;
  MPI_Initialized(&initialized);
  return initialized != 0;
}

// Communicators over MPI need MPI_THREAD_MULTIPLE; a rendezvous alone is content with less.
absl::Status Initialize() {
  int provided = 0;
  SHARDSTEP_RETURN_IF_ERROR(
      MpiStatus(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread"));
  if (provided >= MPI_THREAD_SERIALIZED) return absl::OkStatus();
  return absl::FailedPreconditionError("MpiRendezvous: this MPI lacks MPI_THREAD_SERIALIZED");
}

// MPI_Comm_dup with a deadline: all ranks have just met, so that only a dying one can be missing.
absl::StatusOr<MPI_Comm> Duplicate(MPI_Comm comm, absl::string_view caller, absl::Duration deadline) {
  MPI_Comm duplicate = MPI_COMM_NULL;
  MPI_Request request = MPI_REQUEST_NULL;
  SHARDSTEP_RETURN_IF_ERROR(MpiStatus(MPI_Comm_idup(comm, &duplicate, &request), "MPI_Comm_idup"));
  const absl::Time end = absl::Now() + deadline;
  PollingPause pause;
  while (true) {
    int done = 0;
    SHARDSTEP_RETURN_IF_ERROR(MpiStatus(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test"));
    if (done != 0) break;
    if (absl::Now() >= end) {
      return absl::DeadlineExceededError(
          absl::StrCat(caller, ": duplicating the communicator took longer than ", absl::FormatDuration(deadline)));
    }
    pause.Sleep();
  }
  SHARDSTEP_RETURN_IF_ERROR(
      MpiStatus(MPI_Comm_set_errhandler(duplicate, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler"));
  return duplicate;
}

}  // namespace

MpiRendezvous::Impl::Impl(MPI_Comm comm, bool finalize) : comm_(comm), finalize_(finalize), next_tag_(kFirstFreeTag) {
  MPI_Comm_rank(comm_, &rank_);
  MPI_Comm_size(comm_, &world_size_);
  if (finalize_) ++using_it;
}

MpiRendezvous::Impl::~Impl() {
  const bool is_last = finalize_ && --using_it == 0;
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (finalized != 0) return;
  Listen();
  // Both calls below may wait for ranks that have failed or will not come any more.
  if (leave_unfinalized_) initialized_here = false;  // nor may another one finalize it
  if (!failure_.ok() || leave_unfinalized_) return;
  MPI_Comm_free(&comm_);
  if (is_last && initialized_here) MPI_Finalize();
}

absl::StatusOr<std::vector<std::string>> MpiRendezvous::Impl::Gather(absl::string_view what, absl::string_view bytes,
                                                                     absl::Duration deadline) {
  SHARDSTEP_RETURN_IF_ERROR(failure_);
  MpiExchange exchange(comm_, kMessageTag, round_++);
  absl::StatusOr<std::vector<std::string>> all = exchange.Gather(what, bytes, deadline);
  if (!all.ok()) {
    failure_ = all.status();
    all_are_told_ = exchange.heard_failure();
    if (!all_are_told_) MpiExchange::AnnounceFailure(comm_, kMessageTag, MpiExchange::Reach::kRounds, failure_);
  }
  return all;
}

void MpiRendezvous::Impl::Fail(const absl::Status& reason) {
  Listen();
  if (all_are_told_) return;
  all_are_told_ = true;
  // A rank that has failed before keeps its error, but peers may still be in a meeting that it had reached.
  if (failure_.ok()) {
    failure_ = AbortedBy(rank_, CauseOf(reason), absl::StrCat("failed: ", reason.message()));
  }
  MpiExchange::AnnounceFailure(comm_, kMessageTag, MpiExchange::Reach::kEverything, reason);
}

absl::StatusOr<int> MpiRendezvous::Impl::TakeTags(int count) {
  int* largest = nullptr;
  int found = 0;
  SHARDSTEP_RETURN_IF_ERROR(MpiStatus(MPI_Comm_get_attr(comm_, MPI_TAG_UB, &largest, &found), "MPI_Comm_get_attr"));
  const int last = found != 0 ? *largest : 32'767;  // the least that MPI promises
  if (next_tag_ > last - count + 1) {
    return absl::ResourceExhaustedError(
        absl::StrCat("MPI has no tags for one more communicator: its largest one is ", last));
  }
  return std::exchange(next_tag_, next_tag_ + count);
}

void MpiRendezvous::Impl::Listen() {
  if (!failure_.ok()) return;
  failure_ = MpiExchange::HearFailure(comm_, kMessageTag);
  all_are_told_ = absl::IsAborted(failure_);
}

absl::StatusOr<std::unique_ptr<MpiRendezvous>> MeetOnDuplicate(MPI_Comm comm, absl::string_view caller, bool finalize,
                                                               absl::Duration deadline) {
  const ErrorsReturned errors_returned(comm);
  MpiExchange first_meeting(comm, kFirstMeetingTag, 0);
  SHARDSTEP_RETURN_IF_ERROR(first_meeting.Gather(caller, "", deadline).status());
  SHARDSTEP_ASSIGN_OR_RETURN(MPI_Comm const duplicate, Duplicate(comm, caller, deadline));
  return std::make_unique<MpiRendezvous>(std::make_unique<MpiRendezvous::Impl>(duplicate, finalize));
}

absl::StatusOr<std::unique_ptr<MpiRendezvous>> MpiRendezvous::Create(absl::Duration deadline) {
  SHARDSTEP_RETURN_IF_ERROR(CheckNotFinalized("MpiRendezvous"));
  if (!IsInitialized()) {
    SHARDSTEP_RETURN_IF_ERROR(Initialize());
    initialized_here = true;
  }
  return MeetOnDuplicate(MPI_COMM_WORLD, "MpiRendezvous::Create", initialized_here, deadline);
}

absl::StatusOr<std::unique_ptr<MpiRendezvous>> CreateMpiRendezvous(MPI_Comm comm, absl::Duration deadline) {
  SHARDSTEP_RETURN_IF_ERROR(CheckNotFinalized("CreateMpiRendezvous"));
  if (!IsInitialized()) return absl::FailedPreconditionError("CreateMpiRendezvous: MPI is not initialized");
  return MeetOnDuplicate(comm, "CreateMpiRendezvous", false, deadline);
}

MpiRendezvous::MpiRendezvous(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
MpiRendezvous::~MpiRendezvous() = default;

int MpiRendezvous::rank() const { return impl_->rank(); }
int MpiRendezvous::world_size() const { return impl_->world_size(); }

absl::StatusOr<std::vector<std::string>> MpiRendezvous::AllGatherBytes(absl::string_view what, absl::string_view bytes,
                                                                       absl::Duration deadline) {
  return impl_->Gather(what, bytes, deadline);
}

void MpiRendezvous::Fail(const absl::Status& reason) { impl_->Fail(reason); }

}  // namespace shardstep
