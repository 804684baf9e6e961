#ifndef SHARDSTEP_RUNTIME_PARAMETER_GROUPS_H_
#define SHARDSTEP_RUNTIME_PARAMETER_GROUPS_H_

#include <array>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/optimizer/update_rule.h"
#include "shardstep/runtime/options.h"

namespace shardstep {

struct RuleSettings;  // step_words.h

/// How many groups' settings ranks compare one by one when they take a step; those of all later ones are compared as
/// one.
inline constexpr int kComparedGroups = 8;
/// Hashes of the settings of groups 0 to kComparedGroups - 2, and of all later ones; 0 where there is no group.
using SettingsHashes = std::array<uint64_t, kComparedGroups>;

/// What may change between steps: the settings of groups, which group a parameter belongs to, and which parameters are
/// frozen. Not thread safe; never changed while a step is in flight. Equal on every rank, settings when a step is
/// taken.
class ParameterGroups {
 public:
  /// As registered; `layout` must outlive this object and have been made for `groups`.
  ParameterGroups(std::vector<GroupOptions> groups, const ShardLayout* layout);

  absl::Span<const GroupOptions> groups() const { return groups_; }
  /// Of the parameter that owns p's weights, when p is tied.
  int group(int p) const { return members_[layout_->owner(p)].group; }
  bool frozen(int p) const { return members_[layout_->owner(p)].frozen; }
  /// Applied steps when p's state began; its own t counts from there.
  int64_t begin_applied_step(int p) const { return members_[layout_->owner(p)].begin_applied_step; }
  /// Something in bucket b is not frozen.
  bool active(int b) const;

  /// InvalidArgument names the field; FailedPrecondition when rule, master, rounding or having momentum would change.
  absl::Status SetGroup(int group, const GroupOptions& options);
  /// The new group's index. InvalidArgument names a bad setting; nothing has changed then.
  absl::StatusOr<int> AddGroup(const GroupOptions& options);
  /// FailedPrecondition when p was registered with a group of another kind.
  absl::Status Move(int p, int group);
  void SetFrozen(int p, bool frozen) { members_[layout_->owner(p)].frozen = frozen; }
  void SetBeginAppliedStep(int p, int64_t begin) { members_[layout_->owner(p)].begin_applied_step = begin; }

  /// What `rank` owns of bucket b and is not frozen, each segment with its place in Settings.
  std::vector<Segment> Segments(int b, int rank) const;
  /// By Segment::scalars: what the rules' scalars are made from.
  std::vector<RuleSettings> Settings() const;
  SettingsHashes settings_hashes() const;

 private:
  struct Member {
    int group = 0;
    bool frozen = false;
    int64_t begin_applied_step = 0;
  };
  /// The distinct (group, begin_applied_step) of all parameters, numbered in order.
  std::map<std::pair<int, int64_t>, int> ScalarSets() const;

  std::vector<GroupOptions> groups_;
  std::vector<uint64_t> hashes_;  ///< of groups_
  const ShardLayout* layout_;
  std::vector<Member> members_;  ///< by parameter
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_PARAMETER_GROUPS_H_
