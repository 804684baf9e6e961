#include "shardstep/comm/nccl/heartbeat.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "shardstep/comm/rank_list.h"

namespace shardstep {
namespace {

// A reason is cut, not lost: it is for people.
constexpr size_t kLongestTextBytes = 4096;

enum Field { kArrived, kFinished, kExpired, kAwayNs, kOtherAwayNs, kFlags, kCode, kCause, kNameBytes, kFields };
constexpr int64_t kLeaves = 1;
constexpr int64_t kWantsRendezvous = 2;

using Words = std::array<int64_t, kFields>;

absl::Status StatusOf(int64_t code, int64_t cause, absl::string_view message) {
  const absl::Status status(static_cast<absl::StatusCode>(code), message);
  return WithCause(status, static_cast<absl::StatusCode>(cause));
}

absl::Status DeadlinePassed(const Heartbeat& late, absl::Span<const Heartbeat> states, absl::Duration deadline,
                            absl::Span<const int> names) {
  std::vector<int> absent;
  for (size_t rank = 0; rank < states.size(); ++rank) {
    if (states[rank].arrived > late.expired) continue;
    absent.push_back(names.empty() ? static_cast<int>(rank) : names[rank]);
  }
  const std::string what =
      absent.empty() ? "all ranks have come, but it did not finish" : absl::StrCat(RankList(absent), " did not arrive");
  return absl::DeadlineExceededError(
      absl::StrCat(late.expired_name, ": ", what, " within ", absl::FormatDuration(deadline)));
}

}  // namespace

std::string Encode(const Heartbeat& heartbeat) {
  Words words{};
  words[kArrived] = heartbeat.arrived;
  words[kFinished] = heartbeat.finished;
  words[kExpired] = heartbeat.expired;
  words[kAwayNs] = absl::ToInt64Nanoseconds(heartbeat.away);
  words[kOtherAwayNs] = absl::ToInt64Nanoseconds(heartbeat.other_away);
  words[kFlags] = (heartbeat.leaves ? kLeaves : 0) | (heartbeat.wants_rendezvous ? kWantsRendezvous : 0);
  words[kCode] = static_cast<int64_t>(heartbeat.failure.code());
  words[kCause] = static_cast<int64_t>(CauseOf(heartbeat.failure));
  words[kNameBytes] = static_cast<int64_t>(heartbeat.expired_name.size());
  return absl::StrCat(absl::string_view(reinterpret_cast<const char*>(words.data()), sizeof(words)),
                      heartbeat.expired_name, heartbeat.failure.message().substr(0, kLongestTextBytes));
}

absl::StatusOr<Heartbeat> DecodeHeartbeat(absl::string_view bytes) {
  Words words{};
  if (bytes.size() < sizeof(words)) return absl::InternalError(absl::StrCat("a heartbeat of ", bytes.size(), " bytes"));
  std::memcpy(words.data(), bytes.data(), sizeof(words));
  bytes.remove_prefix(sizeof(words));
  const int64_t name_bytes = words[kNameBytes];
  if (name_bytes < 0 || name_bytes > static_cast<int64_t>(bytes.size())) {
    return absl::InternalError("a heartbeat that is cut off");
  }
  Heartbeat heartbeat;
  heartbeat.arrived = words[kArrived];
  heartbeat.finished = words[kFinished];
  heartbeat.expired = words[kExpired];
  heartbeat.expired_name = std::string(bytes.substr(0, static_cast<size_t>(name_bytes)));
  heartbeat.away = absl::Nanoseconds(words[kAwayNs]);
  heartbeat.other_away = absl::Nanoseconds(words[kOtherAwayNs]);
  heartbeat.leaves = (words[kFlags] & kLeaves) != 0;
  heartbeat.wants_rendezvous = (words[kFlags] & kWantsRendezvous) != 0;
  heartbeat.failure = StatusOf(words[kCode], words[kCause], bytes.substr(static_cast<size_t>(name_bytes)));
  return heartbeat;
}

Verdict Judge(absl::Span<const Heartbeat> states, absl::Duration deadline, absl::Span<const int> names) {
  Verdict verdict;
  verdict.all_want_rendezvous = true;
  const Heartbeat* late = nullptr;
  for (size_t rank = 0; rank < states.size(); ++rank) {
    const Heartbeat& state = states[rank];
    if (verdict.failure.ok()) verdict.failure = state.failure;
    if (state.expired >= 0 && (late == nullptr || state.expired < late->expired)) late = &state;
    verdict.away = std::max(verdict.away, state.away);
    verdict.other_away = std::max(verdict.other_away, state.other_away);
    verdict.all_want_rendezvous = verdict.all_want_rendezvous && state.wants_rendezvous;
    if (state.leaves && (verdict.departure.rank < 0 || state.finished < verdict.departure.finished)) {
      verdict.departure = {names.empty() ? static_cast<int>(rank) : names[rank], state.finished};
    }
  }
  if (verdict.failure.ok() && late != nullptr) verdict.failure = DeadlinePassed(*late, states, deadline, names);
  return verdict;
}

}  // namespace shardstep
