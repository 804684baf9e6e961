#include "shardstep/comm/mpi/small_reduction.h"

#include <algorithm>
#include <utility>

namespace shardstep {

ReductionHub::ReductionHub(int members, absl::Duration deadline)
    : members_(members), deadline_ns_(absl::ToInt64Nanoseconds(deadline)) {}

void ReductionHub::Arrive(int member, int64_t number, const SmallReduction& contribution, int64_t now_ns) {
  if (number < decided_) return;
  Round& round = rounds_[number];
  if (round.arrivals == 0) {
    round.arrived.assign(static_cast<size_t>(members_), false);
    round.first_arrival_ns = now_ns;
  }
  if (round.arrived[static_cast<size_t>(member)]) return;
  round.arrived[static_cast<size_t>(member)] = true;
  if (++round.arrivals == 1) {
    round.sum = contribution;
  } else {
    round.sum.Merge(contribution);
  }
}

std::optional<ReductionHub::Outcome> ReductionHub::Poll(int64_t now_ns, int64_t last_away_ns) {
  if (rounds_.empty()) return std::nullopt;
  const auto& [number, round] = *rounds_.begin();
  Outcome outcome{.number = number, .result = round.sum};
  if (round.arrivals < members_) {
    if (now_ns - std::max(round.first_arrival_ns, last_away_ns) < deadline_ns_) return std::nullopt;
    for (int member = 0; member < members_; ++member) {
      if (!round.arrived[static_cast<size_t>(member)]) outcome.absent.push_back(member);
    }
  }
  decided_ = number + 1;
  rounds_.erase(rounds_.begin());
  return outcome;
}

}  // namespace shardstep
