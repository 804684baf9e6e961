#ifndef SHARDSTEP_COMM_RANK_LIST_H_
#define SHARDSTEP_COMM_RANK_LIST_H_

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"

namespace shardstep {

/// "rank 2" or "ranks 1, 3": how messages name ranks. `ranks` is not empty.
inline std::string RankList(absl::Span<const int> ranks) {
  return absl::StrCat(ranks.size() == 1 ? "rank " : "ranks ", absl::StrJoin(ranks, ", "));
}

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_RANK_LIST_H_
