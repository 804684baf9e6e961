#ifndef SHARDSTEP_COMM_MPI_SMALL_REDUCTION_H_
#define SHARDSTEP_COMM_MPI_SMALL_REDUCTION_H_

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "shardstep/comm/communicator.h"

namespace shardstep {

/// The small all-reduces of a communicator, as its first member sees them: contributions come in, results go out, and
/// who is missing when a deadline passes is known here and nowhere else. One thread at a time; knows no MPI.
class ReductionHub {
 public:
  ReductionHub(int members, absl::Duration deadline);

  /// Who contributes again, or to what is already decided, is ignored.
  void Arrive(int member, int64_t number, const SmallReduction& contribution, int64_t now_ns);

  struct Outcome {
    int64_t number = 0;
    SmallReduction result;
    std::vector<int> absent;  ///< members; not empty: there is no result
  };
  /// The next small all-reduce that is complete, or whose deadline has passed since the later of its first arrival and
  /// `last_away_ns`.
  std::optional<Outcome> Poll(int64_t now_ns, int64_t last_away_ns);

 private:
  struct Round {
    SmallReduction sum;
    std::vector<bool> arrived;
    int arrivals = 0;
    int64_t first_arrival_ns = 0;
  };

  const int members_;
  const int64_t deadline_ns_;
  std::map<int64_t, Round> rounds_;  ///< by number; under way
  int64_t decided_ = 0;              ///< smaller numbers have an outcome
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_MPI_SMALL_REDUCTION_H_
