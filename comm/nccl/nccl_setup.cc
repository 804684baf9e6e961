#include "shardstep/comm/nccl/nccl_setup.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_split.h"
#include "shardstep/comm/rank_list.h"

namespace shardstep {
namespace {

using Clock = std::chrono::steady_clock;

constexpr absl::string_view kCreate = "CreateNcclCommunicator";
// Between two meetings of ranks that wait for each other's initialization.
constexpr absl::Duration kLongestPause = absl::Milliseconds(20);

absl::Status CheckOptions(const NcclOptions& options, int world_size) {
  for (const auto& [name, duration] :
       {std::pair("wait_deadline", options.wait_deadline), std::pair("setup_deadline", options.setup_deadline),
        std::pair("heartbeat", options.heartbeat)}) {
    if (duration > absl::ZeroDuration()) continue;
    return absl::InvalidArgumentError(absl::StrCat(name, " = ", absl::FormatDuration(duration), " is not positive"));
  }
  if (options.landing_buckets < 2) {
    return absl::InvalidArgumentError(absl::StrCat("landing_buckets = ", options.landing_buckets, " is below 2"));
  }
  if (!options.rank_names.empty() && static_cast<int>(options.rank_names.size()) != world_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank_names: ", options.rank_names.size(), " names, there are ", world_size, " ranks"));
  }
  return absl::OkStatus();
}

int NameOf(const NcclOptions& options, size_t rank) {
  return options.rank_names.empty() ? static_cast<int>(rank) : options.rank_names[rank];
}

// One line; the GPU comes after it.
std::string Describe(NcclApi& nccl, const NcclOptions& options) {
  return absl::StrCat("exchange = ", options.exchange == NcclExchange::kExact ? "exact" : "nccl_reduce_scatter",
                      ", landing_buckets = ", options.landing_buckets, ", NCCL ", nccl.Version(),
                      nccl.HasAllToAll() ? "" : " without ncclAlltoAll");
}

absl::Status CompareRanks(const std::vector<std::string>& all, const NcclOptions& options) {
  std::vector<std::pair<std::string, std::string>> ranks;
  for (const std::string& bytes : all) ranks.push_back(absl::StrSplit(bytes, absl::MaxSplits('\n', 1)));
  for (size_t b = 1; b < ranks.size(); ++b) {
    if (ranks[b].first == ranks[0].first) continue;
    return absl::FailedPreconditionError(absl::StrCat(kCreate, ": rank ", NameOf(options, 0), " has ", ranks[0].first,
                                                      "; rank ", NameOf(options, b), " has ", ranks[b].first));
  }
  for (size_t b = 1; b < ranks.size(); ++b) {
    for (size_t a = 0; a < b; ++a) {
      if (ranks[a].second.empty() || ranks[a].second != ranks[b].second) continue;
      return absl::FailedPreconditionError(absl::StrCat(kCreate, ": rank ", NameOf(options, a), " and rank ",
                                                        NameOf(options, b), " use the same GPU, ", ranks[a].second,
                                                        ", which NCCL cannot"));
    }
  }
  return absl::OkStatus();
}

/// What a rank tells while it waits for the others' initialization.
enum class Readiness : char { kUnderWay = 'u', kReady = 'r', kLate = 'l', kFailed = 'f' };

Readiness ReadinessOf(const std::string& bytes) {
  return bytes.empty() ? Readiness::kFailed : static_cast<Readiness>(bytes[0]);
}

// Not OK: what every rank ends with. OK: `*ready` says whether all are.
absl::Status JudgeReadiness(const std::vector<std::string>& all, const NcclOptions& options, bool* ready) {
  std::vector<int> not_ready;
  bool late = false;
  for (size_t rank = 0; rank < all.size(); ++rank) {
    const Readiness readiness = ReadinessOf(all[rank]);
    if (readiness != Readiness::kReady) not_ready.push_back(NameOf(options, rank));
    late = late || readiness == Readiness::kLate;
  }
  *ready = not_ready.empty();
  if (!late) return absl::OkStatus();
  return absl::DeadlineExceededError(absl::StrCat(kCreate, ": NCCL: ", RankList(not_ready),
                                                  " did not become ready within ",
                                                  absl::FormatDuration(options.wait_deadline)));
}

absl::StatusOr<NcclId> ShareId(NcclApi& nccl, Rendezvous& rendezvous, absl::Duration deadline) {
  NcclId id{};
  absl::Status made;
  if (rendezvous.rank() == 0) {
    const int result = nccl.GetUniqueId(&id);
    if (result != NcclApi::kSuccess) {
      made = absl::InternalError(absl::StrCat("ncclGetUniqueId: ", nccl.ErrorText(result, nullptr)));
    }
  }
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(rendezvous, absl::StrCat(kCreate, ": unique id made"), made, deadline));
  const absl::string_view mine(id.data(), rendezvous.rank() == 0 ? id.size() : 0);
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                             rendezvous.AllGatherBytes(absl::StrCat(kCreate, ": unique id"), mine, deadline));
  if (all[0].size() != id.size()) return absl::InternalError("the unique id of NCCL did not come whole");
  std::copy(all[0].begin(), all[0].end(), id.begin());
  return id;
}

}  // namespace

absl::Status AgreeOnNccl(NcclApi& nccl, const CudaDeviceRef& device, Rendezvous& rendezvous, const NcclOptions& options,
                         const absl::Status& mine) {
  absl::Status valid = CheckOptions(options, rendezvous.world_size());
  const absl::Duration deadline = valid.ok() ? options.setup_deadline : NcclOptions().setup_deadline;
  if (valid.ok() && &rendezvous.everyone() != &rendezvous) {
    valid = absl::InvalidArgumentError("rendezvous: is one of several groups that meet in lock-step");
  }
  if (valid.ok()) valid = mine;
  CudaDeviceProperties properties;
  if (valid.ok()) {
    const int result = device.api->GetDeviceProperties(device.device, &properties);
    valid = CudaStatus(*device.api, result, absl::StrCat("device ", device.device));
  }
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(rendezvous, kCreate, valid, deadline));
  if (rendezvous.world_size() == 1) return absl::OkStatus();
  SHARDSTEP_ASSIGN_OR_RETURN(
      const std::vector<std::string> all,
      rendezvous.AllGatherBytes(absl::StrCat(kCreate, ": options and GPU"),
                                absl::StrCat(Describe(nccl, options), "\n", properties.uuid), deadline));
  return CompareRanks(all, options);
}

absl::Status ConnectNccl(NcclApi& nccl, const CudaDeviceRef& device, Rendezvous& rendezvous, const NcclOptions& options,
                         NcclLink& link) {
  SHARDSTEP_ASSIGN_OR_RETURN(const NcclId id, ShareId(nccl, rendezvous, options.setup_deadline));
  absl::Status mine = CudaStatus(*device.api, device.api->SetDevice(device.device), "cudaSetDevice");
  if (mine.ok()) mine = link.Begin(rendezvous.world_size(), id, rendezvous.rank());
  const auto end = Clock::now() + absl::ToChronoNanoseconds(std::min(options.wait_deadline, absl::Hours(24 * 365)));
  const absl::Duration pause = std::min(options.heartbeat, kLongestPause);
  for (bool ready = false; !ready;) {
    Readiness readiness = Readiness::kFailed;
    if (mine.ok()) {
      const absl::StatusOr<NcclLink::State> state = link.Poll();
      mine = state.status();
      if (state.ok() && *state == NcclLink::State::kReady) readiness = Readiness::kReady;
      if (state.ok() && *state == NcclLink::State::kUnderWay) {
        readiness = Clock::now() < end ? Readiness::kUnderWay : Readiness::kLate;
      }
    }
    // A failure is everyone's: who waits for the one that failed would wait in vain.
    SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(rendezvous, absl::StrCat(kCreate, ": NCCL"), mine, options.setup_deadline));
    SHARDSTEP_ASSIGN_OR_RETURN(
        const std::vector<std::string> all,
        rendezvous.AllGatherBytes(absl::StrCat(kCreate, ": NCCL ready"), std::string(1, static_cast<char>(readiness)),
                                  options.setup_deadline));
    SHARDSTEP_RETURN_IF_ERROR(JudgeReadiness(all, options, &ready));
    if (!ready) std::this_thread::sleep_for(absl::ToChronoNanoseconds(pause));
  }
  return absl::OkStatus();
}

}  // namespace shardstep
