#ifndef SHARDSTEP_RUNTIME_JOINT_TABLE_H_
#define SHARDSTEP_RUNTIME_JOINT_TABLE_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/runtime/decision.h"
#include "shardstep/runtime/options.h"

namespace shardstep {

/// The name of an optimizer as messages have it.
std::string Quoted(absl::string_view name);

/// One optimizer of a joint decision, as one of its ranks presents it.
struct JointEntry {
  std::string name;
  int rank = 0;  ///< in the optimizer
  int world_size = 1;
  NonFinitePolicy non_finite = NonFinitePolicy::kSkip;
  int64_t max_consecutive_skips = 0;
  std::vector<std::pair<std::string, int64_t>> parameters;  ///< names and elements, as they are numbered
};
JointEntry MakeJointEntry(const std::string& name, int rank, const ShardLayout& layout,
                          const OptimizerOptions& options);

/// Text, for a rendezvous.
std::string EncodeEntries(absl::Span<const JointEntry> entries);
/// Internal when the text is none of EncodeEntries.
absl::StatusOr<std::vector<JointEntry>> DecodeEntries(absl::string_view text);

/// Who takes part in a joint decision: its members (optimizers), each with its elements in one numbering of all, and
/// one seat per rank of each member. The same on every rank. "Rank" alone is one of the decision's rendezvous.
class JointTable {
 public:
  /// From what each rank presents. Errors as of JoinDecisions; the same on every rank.
  static absl::StatusOr<JointTable> Create(const std::vector<std::vector<JointEntry>>& entries_by_rank);

  /// Of the i-th entry of `rank`.
  int member(int rank, int i) const { return members_by_rank_[rank][i]; }
  const std::string& name(int member) const { return members_[member].name; }
  int seat(int member, int rank_of_member) const { return members_[member].first_seat + rank_of_member; }
  /// What is added to the places of a member's own scan.
  int64_t begin_element(int member) const { return members_[member].begin_element; }

  /// With `objection` of a member about ranks of its own.
  absl::Status Refusal(const Objection& objection) const;
  /// "rank 3 ("experts 1")".
  std::string DescribeSeat(int seat) const;
  NonFinitePlace Locate(const FoundPlace& place) const;

 private:
  struct Member {
    std::string name;
    std::vector<int> ranks;  // by the member's own rank
    int first_seat = 0;
    int64_t begin_element = 0;
    std::vector<std::pair<std::string, int64_t>> parameters;
  };
  absl::Status AddMembers(const std::vector<std::vector<JointEntry>>& entries_by_rank);
  absl::Status Seat(const JointEntry& entry, int member, int rank);
  absl::Status NumberAll();

  std::vector<Member> members_;
  std::vector<std::vector<int>> members_by_rank_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_JOINT_TABLE_H_
