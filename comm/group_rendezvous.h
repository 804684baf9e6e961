#ifndef SHARDSTEP_COMM_GROUP_RENDEZVOUS_H_
#define SHARDSTEP_COMM_GROUP_RENDEZVOUS_H_

#include <string>
#include <vector>

#include "shardstep/comm/rendezvous.h"

namespace shardstep {

/// The rendezvous of some ranks of another, while all groups make the same calls in lock-step: each meeting is one of
/// the whole `parent`, of which members see their own part. For set-up that every host does alike. Messages name ranks
/// of the parent, and AgreeOnStatus agrees among all of them: were one group to fail alone, the others would go on to
/// meetings that nobody comes to.
class GroupRendezvous : public Rendezvous {
 public:
  /// `members`: ranks of `parent`, this one among them; rank i of the group is members[i]. `parent` must outlive it.
  GroupRendezvous(Rendezvous& parent, std::vector<int> members);

  int rank() const override { return rank_; }
  int world_size() const override { return static_cast<int>(members_.size()); }
  absl::StatusOr<std::vector<std::string>> AllGatherBytes(absl::string_view what, absl::string_view bytes,
                                                          absl::Duration deadline) override;
  void Fail(const absl::Status& reason) override { parent_.Fail(reason); }
  Rendezvous& everyone() override { return parent_.everyone(); }
  int rank_name(int rank) const override { return parent_.rank_name(members_[static_cast<size_t>(rank)]); }

 private:
  Rendezvous& parent_;
  const std::vector<int> members_;
  int rank_ = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_GROUP_RENDEZVOUS_H_
