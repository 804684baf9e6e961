#include "shardstep/comm/tcp/job_id.h"

#include <map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "shardstep/comm/mutex.h"
#include "shardstep/comm/tcp/listening_place.h"
#include "shardstep/comm/tcp/listening_rendezvous.h"

namespace shardstep {
namespace {

constexpr char kSeparator = '#';
constexpr size_t kMaxAddressBytes = 256;

/// Ids that this process has created and nobody has met by.
struct Listeners {
  Mutex mutex;
  std::map<std::string, Descriptor> by_id;
};

Listeners& TheListeners() {
  static Listeners& listeners = *new Listeners;
  return listeners;
}

absl::StatusOr<ListeningPlace> Parse(absl::string_view id) {
  const std::vector<std::string> parts = absl::StrSplit(id, kSeparator);
  ListeningPlace place;
  if (parts.size() != 2 || parts[0].empty() || !absl::SimpleHexAtoi(parts[1], &place.key)) {
    return absl::InvalidArgumentError(absl::StrCat("job id: \"", id, "\" is none that CreateJobId made"));
  }
  place.address = parts[0];
  return place;
}

}  // namespace

absl::StatusOr<std::string> CreateJobId(const std::string& host_address) {
  SHARDSTEP_RETURN_IF_ERROR(CheckHostAddress(host_address));
  if (host_address.size() > kMaxAddressBytes || host_address.find(kSeparator) != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat("host_address: \"", host_address, "\" is no address"));
  }
  Descriptor listener;
  SHARDSTEP_ASSIGN_OR_RETURN(const ListeningPlace place,
                             ListenSomewhere(host_address.empty() ? SystemHostName() : host_address, &listener));
  std::string id = absl::StrCat(place.address, std::string(1, kSeparator), absl::Hex(place.key, absl::kZeroPad16));
  const MutexLock lock(&TheListeners().mutex);
  TheListeners().by_id.emplace(id, std::move(listener));
  return id;
}

absl::StatusOr<std::unique_ptr<Rendezvous>> MeetByJobId(const std::string& id, int rank, int world_size,
                                                        absl::Duration deadline) {
  SHARDSTEP_ASSIGN_OR_RETURN(const ListeningPlace place, Parse(id));
  Descriptor listener;
  if (rank == 0) {
    const MutexLock lock(&TheListeners().mutex);
    const auto found = TheListeners().by_id.find(id);
    if (found == TheListeners().by_id.end()) {
      return absl::FailedPreconditionError(
          absl::StrCat("job id: rank 0 has not created \"", id, "\" in this process, or has met by it already"));
    }
    listener = std::move(found->second);
    TheListeners().by_id.erase(found);
  }
  return CreateListeningRendezvous(
      {.address = place.address, .rank = rank, .world_size = world_size, .deadline = deadline}, place.key,
      std::move(listener));
}

bool IsJobId(absl::string_view text) { return Parse(text).ok(); }

}  // namespace shardstep
