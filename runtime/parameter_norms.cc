#include "shardstep/runtime/parameter_norms.h"

#include <cmath>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"

namespace shardstep {

absl::StatusOr<std::vector<double>> GatherParameterNorms(absl::Span<const ExactSum> squares_of_this_rank,
                                                         double divisor, Rendezvous& rendezvous,
                                                         absl::Duration deadline) {
  std::vector<ExactSum> squares(squares_of_this_rank.begin(), squares_of_this_rank.end());
  for (ExactSum& sum : squares) sum.Normalize();
  if (rendezvous.world_size() > 1) {
    const std::string mine(reinterpret_cast<const char*>(squares.data()), squares.size() * sizeof(ExactSum));
    SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> parts,
                               rendezvous.AllGatherBytes("norms of parameters", mine, deadline));
    std::fill(squares.begin(), squares.end(), ExactSum());
    std::vector<ExactSum> theirs(squares.size());
    for (size_t rank = 0; rank < parts.size(); ++rank) {
      if (parts[rank].size() != mine.size()) {
        return absl::InternalError(
            absl::StrCat("rank ", rank, " sent norms of ", parts[rank].size(), " bytes, not ", mine.size()));
      }
      std::memcpy(theirs.data(), parts[rank].data(), mine.size());
      for (size_t p = 0; p < squares.size(); ++p) squares[p].Merge(theirs[p]);
    }
  }
  std::vector<double> norms;
  for (const ExactSum& sum : squares) norms.push_back(std::sqrt(sum.Round()) / divisor);
  return norms;
}

}  // namespace shardstep
