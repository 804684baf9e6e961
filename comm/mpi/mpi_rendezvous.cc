#include "shardstep/comm/mpi/mpi_rendezvous.h"

#include <utility>

#include "shardstep/comm/mpi/mpi_exchange.h"

namespace shardstep {
namespace {

// On MPI_COMM_WORLD, which others use too; on the duplicate any tag would do.
constexpr int kMessageTag = 22'359;

// While it lives, errors on MPI_COMM_WORLD are returned instead of ending the process.
class WorldErrorsReturned {
 public:
  WorldErrorsReturned() {
    MPI_Comm_get_errhandler(MPI_COMM_WORLD, &before_);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  }
  ~WorldErrorsReturned() {
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, before_);
    MPI_Errhandler_free(&before_);
  }
  WorldErrorsReturned(const WorldErrorsReturned&) = delete;
  WorldErrorsReturned& operator=(const WorldErrorsReturned&) = delete;

 private:
  MPI_Errhandler before_ = MPI_ERRHANDLER_NULL;
};

absl::Status Initialize(bool* initialized_here) {
  int initialized = 0;
  int finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  if (finalized != 0) return absl::FailedPreconditionError("MpiRendezvous: MPI is finalized already");
  *initialized_here = initialized == 0;
  if (initialized != 0) return absl::OkStatus();
  int provided = 0;
  SHARDSTEP_RETURN_IF_ERROR(
      MpiStatus(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread"));
  if (provided >= MPI_THREAD_SERIALIZED) return absl::OkStatus();
  return absl::FailedPreconditionError("MpiRendezvous: this MPI lacks MPI_THREAD_SERIALIZED");
}

// MPI_Comm_dup with a deadline: all ranks have just met, so that only a dying one can be missing.
absl::StatusOr<MPI_Comm> DuplicateWorld(absl::Duration deadline) {
  MPI_Comm duplicate = MPI_COMM_NULL;
  MPI_Request request = MPI_REQUEST_NULL;
  SHARDSTEP_RETURN_IF_ERROR(MpiStatus(MPI_Comm_idup(MPI_COMM_WORLD, &duplicate, &request), "MPI_Comm_idup"));
  const absl::Time end = absl::Now() + deadline;
  PollingPause pause;
  while (true) {
    int done = 0;
    SHARDSTEP_RETURN_IF_ERROR(MpiStatus(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test"));
    if (done != 0) break;
    if (absl::Now() >= end) {
      return absl::DeadlineExceededError(
          absl::StrCat("MpiRendezvous: duplicating MPI_COMM_WORLD took longer than ", absl::FormatDuration(deadline)));
    }
    pause.Sleep();
  }
  SHARDSTEP_RETURN_IF_ERROR(
      MpiStatus(MPI_Comm_set_errhandler(duplicate, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler"));
  return duplicate;
}

}  // namespace

class MpiRendezvous::Impl {
 public:
  Impl(MPI_Comm comm, bool finalize) : comm_(comm), finalize_(finalize) {
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &world_size_);
  }

  ~Impl() {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (finalized != 0) return;
    Listen();
    // Both calls below may wait for ranks that have failed or will not come any more.
    if (!failure_.ok()) return;
    MPI_Comm_free(&comm_);
    if (finalize_) MPI_Finalize();
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  int rank() const { return rank_; }
  int world_size() const { return world_size_; }

  absl::StatusOr<std::vector<std::string>> Gather(absl::string_view what, absl::string_view bytes,
                                                  absl::Duration deadline) {
    SHARDSTEP_RETURN_IF_ERROR(failure_);
    MpiExchange exchange(comm_, kMessageTag, round_++);
    absl::StatusOr<std::vector<std::string>> all = exchange.Gather(what, bytes, deadline);
    if (!all.ok()) {
      failure_ = all.status();
      all_are_told_ = exchange.heard_failure();
      if (!all_are_told_) {
        MpiExchange::AnnounceFailure(comm_, kMessageTag, MpiExchange::Reach::kRounds, failure_);
      }
    }
    return all;
  }

  void Fail(const absl::Status& reason) {
    Listen();
    if (all_are_told_) return;
    all_are_told_ = true;
    // A rank that has failed before keeps its error, but peers may still be in a meeting that it had reached.
    if (failure_.ok()) {
      failure_ = AbortedBy(rank_, CauseOf(reason), absl::StrCat("failed: ", reason.message()));
    }
    MpiExchange::AnnounceFailure(comm_, kMessageTag, MpiExchange::Reach::kEverything, reason);
  }

 private:
  void Listen() {
    if (!failure_.ok()) return;
    failure_ = MpiExchange::HearFailure(comm_, kMessageTag);
    all_are_told_ = absl::IsAborted(failure_);
  }

  MPI_Comm comm_;
  const bool finalize_;
  int rank_ = 0;
  int world_size_ = 0;
  uint64_t round_ = 0;
  absl::Status failure_;
  bool all_are_told_ = false;  // of a failure that ends everything, by this rank or by another
};

absl::StatusOr<std::unique_ptr<MpiRendezvous>> MpiRendezvous::Create(absl::Duration deadline) {
  bool initialized_here = false;
  SHARDSTEP_RETURN_IF_ERROR(Initialize(&initialized_here));
  const WorldErrorsReturned errors_returned;
  MpiExchange first_meeting(MPI_COMM_WORLD, kMessageTag, 0);
  SHARDSTEP_RETURN_IF_ERROR(first_meeting.Gather("MpiRendezvous::Create", "", deadline).status());
  SHARDSTEP_ASSIGN_OR_RETURN(MPI_Comm const comm, DuplicateWorld(deadline));
  return std::unique_ptr<MpiRendezvous>(new MpiRendezvous(std::make_unique<Impl>(comm, initialized_here)));
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
