#include "shardstep/comm/nccl/nccl_levels.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "shardstep/comm/mutex.h"
#include "shardstep/comm/shm/host_id.h"
#include "shardstep/comm/tcp/side_rendezvous.h"

namespace shardstep {
namespace {

using Levels = NcclLevelsOptions::Levels;

constexpr absl::string_view kCreate = "CreateNcclLevels";

/// What the watching thread of one level has to tell that of the other. It belongs to both, so either may go first.
/// Threads: any.
class LevelNews {
 public:
  void SetFailure(const absl::Status& failure) {
    const MutexLock lock(&mutex_);
    failure_ = failure;
  }
  absl::Status failure() const {
    const MutexLock lock(&mutex_);
    return failure_;
  }
  void SetAway(absl::Duration away) {
    const MutexLock lock(&mutex_);
    away_ = away;
    heard_ = Clock::now();
  }
  absl::Duration away() const {
    const MutexLock lock(&mutex_);
    return std::max(absl::ZeroDuration(), away_ - absl::FromChrono(Clock::now() - heard_));
  }

 private:
  using Clock = std::chrono::steady_clock;

  mutable Mutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  absl::Duration away_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();  ///< as of heard_
  Clock::time_point heard_ ABSL_GUARDED_BY(mutex_);
};

void Join(NcclOptions* options, const std::shared_ptr<LevelNews>& mine, const std::shared_ptr<LevelNews>& other) {
  options->other_failure = [other] { return other->failure(); };
  options->other_away = [other] { return other->away(); };
  options->on_failure = [mine](const absl::Status& failure) { mine->SetFailure(failure); };
  options->on_away = [mine](absl::Duration away) { mine->SetAway(away); };
}

absl::Status CheckOptions(const NcclLevelsOptions& options) {
  if (options.setup_deadline <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat("setup_deadline = ", absl::FormatDuration(options.setup_deadline), " is not positive"));
  }
  if (options.levels == Levels::kTwo && options.exchange != NcclExchange::kExact) {
    return absl::InvalidArgumentError("levels = two: needs exchange = exact, as nccl_reduce_scatter cannot join hosts");
  }
  return absl::OkStatus();
}

absl::Status AgreeOnOptions(Rendezvous& job, const NcclLevelsOptions& options) {
  const absl::Status valid = CheckOptions(options);
  const absl::Duration deadline =
      options.setup_deadline > absl::ZeroDuration() ? options.setup_deadline : NcclLevelsOptions().setup_deadline;
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(job, kCreate, valid, deadline));
  const absl::string_view mine = options.levels == Levels::kTwo ? "levels = two" : "levels = one";
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                             job.AllGatherBytes(absl::StrCat(kCreate, ": levels"), mine, deadline));
  for (int rank = 1; rank < job.world_size(); ++rank) {
    if (all[static_cast<size_t>(rank)] == all[0]) continue;
    return absl::FailedPreconditionError(absl::StrCat(kCreate, ": rank ", job.rank_name(0), " has ", all[0], "; rank ",
                                                      job.rank_name(rank), " has ", all[static_cast<size_t>(rank)]));
  }
  return absl::OkStatus();
}

/// Makes the levels of one rank.
class Maker {
 public:
  Maker(NcclApi& nccl, const CudaDeviceRef& device, Memory& memory, Rendezvous& job, const NcclLevelsOptions& options)
      : nccl_(nccl), device_(device), memory_(memory), job_(job), options_(options) {
    if (options_.host_id.empty()) options_.host_id = DefaultHostId();
  }

  absl::StatusOr<CommunicatorLevels> Make();

 private:
  absl::Status MakeOne(CommunicatorLevels* levels);
  absl::Status MakeTwo(CommunicatorLevels* levels);
  /// Collective over the job: every rank makes the level that it is one of `members` of, or none does.
  absl::StatusOr<std::unique_ptr<Communicator>> MakeLevel(const std::vector<int>& members, NcclOptions nccl_options,
                                                          CommunicatorLevels* levels);
  NcclOptions OptionsOf(const std::vector<int>& members) const {
    NcclOptions options{.wait_deadline = options_.wait_deadline,
                        .setup_deadline = options_.setup_deadline,
                        .exchange = options_.exchange,
                        .landing_buckets = options_.landing_buckets,
                        .heartbeat = options_.heartbeat};
    for (const int member : members) options.rank_names.push_back(job_.rank_name(member));
    return options;
  }

  NcclApi& nccl_;
  const CudaDeviceRef device_;
  Memory& memory_;
  Rendezvous& job_;
  NcclLevelsOptions options_;
};

absl::StatusOr<CommunicatorLevels> Maker::Make() {
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnOptions(job_, options_));
  SHARDSTEP_ASSIGN_OR_RETURN(HostMap map, MapHosts(job_, options_.host_id, options_.setup_deadline));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<int> host_ranks,
                             CountRanksOfHosts(job_, options_.host_id, options_.setup_deadline));
  CommunicatorLevels levels;
  levels.host_ranks = host_ranks[static_cast<size_t>(job_.rank())];
  const bool has_rails = map.host_count() > 1 && map.ranks_per_host() > 1;
  if (options_.levels == Levels::kTwo && has_rails) {
    levels.map = std::move(map);
    SHARDSTEP_RETURN_IF_ERROR(MakeTwo(&levels));
    return levels;
  }
  const auto fewest = std::min_element(host_ranks.begin(), host_ranks.end());
  const auto most = std::max_element(host_ranks.begin(), host_ranks.end());
  if (options_.levels == Levels::kTwo && *fewest != *most) {
    return absl::FailedPreconditionError(
        absl::StrCat(kCreate, ": levels = two: needs equally many ranks on every host; the host of rank ",
                     job_.rank_name(static_cast<int>(fewest - host_ranks.begin())), " has ", *fewest, ", that of rank ",
                     job_.rank_name(static_cast<int>(most - host_ranks.begin())), " has ", *most));
  }
  SHARDSTEP_RETURN_IF_ERROR(MakeOne(&levels));
  return levels;
}

absl::Status Maker::MakeOne(CommunicatorLevels* levels) {
  std::vector<int> all(static_cast<size_t>(job_.world_size()));
  std::iota(all.begin(), all.end(), 0);
  SHARDSTEP_ASSIGN_OR_RETURN(levels->host, MakeLevel(all, OptionsOf(all), levels));
  return absl::OkStatus();
}

absl::Status Maker::MakeTwo(CommunicatorLevels* levels) {
  const auto host_news = std::make_shared<LevelNews>();
  const auto network_news = std::make_shared<LevelNews>();
  const std::vector<int>& local = levels->map.hosts[static_cast<size_t>(levels->map.host)];
  const std::vector<int> rail = levels->map.Rail();
  NcclOptions host = OptionsOf(local);
  Join(&host, host_news, network_news);
  SHARDSTEP_ASSIGN_OR_RETURN(levels->host, MakeLevel(local, std::move(host), levels));
  NcclOptions network = OptionsOf(rail);
  Join(&network, network_news, host_news);
  SHARDSTEP_ASSIGN_OR_RETURN(levels->network, MakeLevel(rail, std::move(network), levels));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Communicator>> Maker::MakeLevel(const std::vector<int>& members,
                                                               NcclOptions nccl_options, CommunicatorLevels* levels) {
  SHARDSTEP_ASSIGN_OR_RETURN(
      std::unique_ptr<Rendezvous> side,
      CreateSideRendezvous(
          job_, members,
          {.deadline = options_.setup_deadline, .host_address = options_.host_address, .host_id = options_.host_id}));
  levels->rendezvous.push_back(std::move(side));
  absl::StatusOr<std::unique_ptr<Communicator>> communicator =
      CreateNcclCommunicator(nccl_, device_, memory_, *levels->rendezvous.back(), nccl_options);
  // Members of one group fail together; the other groups would go on.
  SHARDSTEP_RETURN_IF_ERROR(
      AgreeOnStatus(job_, absl::StrCat(kCreate, ": NCCL"), communicator.status(), options_.setup_deadline));
  return communicator;
}

}  // namespace

absl::StatusOr<CommunicatorLevels> CreateNcclLevels(NcclApi& nccl, const CudaDeviceRef& device, Memory& memory,
                                                    Rendezvous& job, const NcclLevelsOptions& options) {
  return Maker(nccl, device, memory, job, options).Make();
}

}  // namespace shardstep
