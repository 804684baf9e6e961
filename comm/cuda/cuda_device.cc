#include "shardstep/comm/cuda/cuda_device.h"

#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace shardstep {
namespace {

constexpr int kAny = std::numeric_limits<int>::min();

/// What a rank sees and wants; then what it would use.
struct RankDevice {
  std::string host_id;
  std::string error;  ///< why it has no device; the rest means nothing then
  int count = 0;
  int ordinal = kAny;  ///< wanted
  int device = -1;     ///< chosen
  CudaDeviceProperties properties;
};

std::string Name(const RankDevice& rank) {
  return absl::StrCat("device ", rank.device, " (", rank.properties.name, ", compute capability ",
                      rank.properties.major, ".", rank.properties.minor, ", ", rank.properties.uuid, ")");
}

std::string Names(const std::vector<int>& ranks) {
  return absl::StrCat(ranks.size() == 1 ? "rank " : "ranks ", absl::StrJoin(ranks, ", "));
}

RankDevice Look(CudaApi& api, const CudaDeviceRequest& request) {
  RankDevice mine{.host_id = request.host_id, .ordinal = request.ordinal.value_or(kAny)};
  const int error = api.GetDeviceCount(&mine.count);
  // The count is there on success only.
  if (error != CudaApi::kSuccess) {
    mine.count = 0;
    mine.error = error == CudaApi::kInsufficientDriver
                     ? absl::StrCat("no NVIDIA driver, or one too old (", api.ErrorText(error), ")")
                     : absl::StrCat("no CUDA device (", api.ErrorText(error), ")");
  } else if (mine.count <= 0) {
    mine.error = "no CUDA device";
  }
  return mine;
}

absl::Status Malformed() { return absl::InternalError("devices of ranks: malformed message"); }

/// The field that may hold anything comes last.
std::string PackSight(const RankDevice& mine) {
  return absl::StrCat(mine.count, "\n", mine.ordinal, "\n", mine.error.size(), "\n", mine.error, mine.host_id);
}

absl::StatusOr<RankDevice> UnpackSight(const std::string& bytes) {
  const std::vector<std::string> fields = absl::StrSplit(bytes, absl::MaxSplits('\n', 3));
  RankDevice rank;
  size_t error_bytes = 0;
  if (fields.size() != 4 || !absl::SimpleAtoi(fields[0], &rank.count) || !absl::SimpleAtoi(fields[1], &rank.ordinal) ||
      !absl::SimpleAtoi(fields[2], &error_bytes) || error_bytes > fields[3].size()) {
    return Malformed();
  }
  rank.error = fields[3].substr(0, error_bytes);
  rank.host_id = fields[3].substr(error_bytes);
  return rank;
}

std::string PackProperties(const CudaDeviceProperties& properties) {
  return absl::StrJoin(
      {absl::StrCat(properties.major), absl::StrCat(properties.minor), properties.uuid, properties.name}, "\n");
}

absl::Status UnpackProperties(const std::string& bytes, CudaDeviceProperties* properties) {
  const std::vector<std::string> fields = absl::StrSplit(bytes, absl::MaxSplits('\n', 3));
  if (fields.size() != 4 || !absl::SimpleAtoi(fields[0], &properties->major) ||
      !absl::SimpleAtoi(fields[1], &properties->minor)) {
    return Malformed();
  }
  properties->uuid = fields[2];
  properties->name = fields[3];
  return absl::OkStatus();
}

using Hosts = std::map<std::string, std::vector<int>>;

Hosts HostsOf(const std::vector<RankDevice>& ranks) {
  Hosts hosts;
  for (size_t r = 0; r < ranks.size(); ++r) hosts[ranks[r].host_id].push_back(static_cast<int>(r));
  return hosts;
}

/// Chooses every rank's device, the same way on every rank.
absl::Status ChooseAll(const Hosts& hosts, bool allow_sharing, std::vector<RankDevice>* ranks) {
  for (size_t r = 0; r < ranks->size(); ++r) {
    const RankDevice& rank = (*ranks)[r];
    if (!rank.error.empty()) return absl::NotFoundError(absl::StrCat("rank ", r, ": ", rank.error));
    if (rank.ordinal != kAny && (rank.ordinal < 0 || rank.ordinal >= rank.count)) {
      return absl::InvalidArgumentError(absl::StrCat("rank ", r, ": there is no device ", rank.ordinal, ", only ",
                                                     rank.count == 1 ? "device 0" : "devices 0 to ",
                                                     rank.count == 1 ? "" : absl::StrCat(rank.count - 1)));
    }
  }
  for (const auto& [host_id, members] : hosts) {
    for (size_t local = 0; local < members.size(); ++local) {
      RankDevice& rank = (*ranks)[static_cast<size_t>(members[local])];
      const int local_rank = static_cast<int>(local);
      rank.device = rank.ordinal;
      if (rank.ordinal != kAny) continue;
      // One device: every rank may see another one.
      const bool wraps = allow_sharing || rank.count == 1;
      if (local_rank >= rank.count && !wraps) {
        return absl::FailedPreconditionError(absl::StrCat("too few devices: ", Names(members), " are on one host with ",
                                                          rank.count, " devices; rank ", members[local],
                                                          " has none left"));
      }
      rank.device = local_rank % rank.count;
    }
  }
  return absl::OkStatus();
}

absl::Status CheckHost(const std::vector<int>& members, const std::vector<RankDevice>& ranks, bool allow_sharing) {
  const RankDevice& first = ranks[static_cast<size_t>(members.front())];
  std::map<std::string, int> users;  // by uuid
  for (const int member : members) {
    const RankDevice& rank = ranks[static_cast<size_t>(member)];
    if (rank.properties.name != first.properties.name || rank.properties.major != first.properties.major ||
        rank.properties.minor != first.properties.minor) {
      return absl::FailedPreconditionError(absl::StrCat("different devices on one host: rank ", members.front(),
                                                        " has ", Name(first), ", rank ", member, " has ", Name(rank)));
    }
    const auto [user, is_new] = users.emplace(rank.properties.uuid, member);
    if (!is_new && !allow_sharing) {
      return absl::FailedPreconditionError(
          absl::StrCat("ranks ", user->second, " and ", member, " would share ", Name(rank), ": ", members.size(),
                       " ranks are on its host; start as many as it has devices, or allow sharing"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CudaDeviceRef> ChooseCudaDevice(CudaApi& api, Rendezvous& rendezvous, const CudaDeviceRequest& request) {
  SHARDSTEP_ASSIGN_OR_RETURN(
      const std::vector<std::string> sights,
      rendezvous.AllGatherBytes("devices of ranks", PackSight(Look(api, request)), request.deadline));
  std::vector<RankDevice> ranks;
  for (const std::string& bytes : sights) {
    SHARDSTEP_ASSIGN_OR_RETURN(RankDevice rank, UnpackSight(bytes));
    ranks.push_back(std::move(rank));
  }
  const Hosts hosts = HostsOf(ranks);
  SHARDSTEP_RETURN_IF_ERROR(ChooseAll(hosts, request.allow_sharing, &ranks));

  RankDevice& mine = ranks[static_cast<size_t>(rendezvous.rank())];
  const absl::Status asked = CudaStatus(api, api.GetDeviceProperties(mine.device, &mine.properties),
                                        absl::StrCat("cudaGetDeviceProperties(", mine.device, ")"));
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(rendezvous, "properties of devices", asked, request.deadline));
  SHARDSTEP_ASSIGN_OR_RETURN(
      const std::vector<std::string> properties,
      rendezvous.AllGatherBytes("chosen devices", PackProperties(mine.properties), request.deadline));
  for (size_t r = 0; r < ranks.size(); ++r) {
    SHARDSTEP_RETURN_IF_ERROR(UnpackProperties(properties[r], &ranks[r].properties));
  }
  for (const auto& [host_id, members] : hosts) {
    SHARDSTEP_RETURN_IF_ERROR(CheckHost(members, ranks, request.allow_sharing));
  }
  const CudaDeviceRef device{&api, mine.device};
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(rendezvous, "use of devices", MakeCurrent(device), request.deadline));
  return device;
}

}  // namespace shardstep
