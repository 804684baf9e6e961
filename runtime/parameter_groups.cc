#include "shardstep/runtime/parameter_groups.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "shardstep/optimizer/rule_scalars.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace shardstep {
namespace {

uint64_t HashOf(const GroupOptions& options) {
  const std::string text = DescribeGroup(options);
  return XXH3_64bits(text.data(), text.size());
}

}  // namespace

ParameterGroups::ParameterGroups(std::vector<GroupOptions> groups, const ShardLayout* layout)
    : groups_(std::move(groups)), layout_(layout) {
  for (int p = 0; p < layout->parameter_count(); ++p) {
    members_.push_back({.group = layout->parameter(p).group, .frozen = layout->parameter(p).frozen});
  }
  for (const GroupOptions& group : groups_) hashes_.push_back(HashOf(group));
}

bool ParameterGroups::active(int b) const {
  const absl::Span<const int> parameters = layout_->parameters_of(b);
  return std::any_of(parameters.begin(), parameters.end(), [&](int p) { return !frozen(p); });
}

absl::Status ParameterGroups::SetGroup(int group, const GroupOptions& options) {
  if (group < 0 || group >= static_cast<int>(groups_.size())) {
    return absl::InvalidArgumentError(absl::StrCat("group ", group, " is not one of the ", groups_.size(), " groups"));
  }
  SHARDSTEP_RETURN_IF_ERROR(ValidateGroup(group, options));
  if (options.kind() != groups_[group].kind()) {
    return absl::FailedPreconditionError(
        absl::StrCat("group ", group, ": rule, master, rounding and having momentum are fixed at creation"));
  }
  groups_[group] = options;
  hashes_[group] = HashOf(options);
  return absl::OkStatus();
}

absl::StatusOr<int> ParameterGroups::AddGroup(const GroupOptions& options) {
  SHARDSTEP_RETURN_IF_ERROR(ValidateGroup(groups_.size(), options));
  if (static_cast<int64_t>(groups_.size()) == kMaxGroups) {
    return absl::InvalidArgumentError(
        absl::StrCat("number of groups = ", kMaxGroups + 1, ": must be at most ", kMaxGroups));
  }
  groups_.push_back(options);
  hashes_.push_back(HashOf(options));
  return static_cast<int>(groups_.size()) - 1;
}

absl::Status ParameterGroups::Move(int p, int group) {
  const int registered = layout_->parameter(layout_->owner(p)).group;
  if (groups_[group].kind() != groups_[registered].kind()) {
    return absl::FailedPreconditionError(absl::StrCat("parameter \"", layout_->parameter(p).name,
                                                      "\" cannot join group ", group,
                                                      ": rule, master, rounding and having momentum must be ",
                                                      "those of group ", registered, ", with which it was registered"));
  }
  members_[layout_->owner(p)].group = group;
  return absl::OkStatus();
}

std::map<std::pair<int, int64_t>, int> ParameterGroups::ScalarSets() const {
  std::map<std::pair<int, int64_t>, int> sets;
  for (const Member& member : members_) sets.try_emplace({member.group, member.begin_applied_step});
  int number = 0;
  for (auto& [key, value] : sets) value = number++;
  return sets;
}

std::vector<Segment> ParameterGroups::Segments(int b, int rank) const {
  const std::map<std::pair<int, int64_t>, int> sets = ScalarSets();
  std::vector<Segment> segments;
  for (Segment segment : layout_->Segments(b, rank)) {
    const Member& member = members_[segment.parameter];
    if (member.frozen) continue;
    segment.scalars = sets.at({member.group, member.begin_applied_step});
    segments.push_back(segment);
  }
  return segments;
}

SettingsHashes ParameterGroups::settings_hashes() const {
  SettingsHashes hashes{};
  for (size_t g = 0; g < hashes_.size(); ++g) {
    uint64_t& hash = hashes[std::min(g, hashes.size() - 1)];
    const std::array<uint64_t, 2> both = {hash, hashes_[g]};
    hash = XXH3_64bits(both.data(), sizeof(both));
  }
  return hashes;
}

std::vector<RuleSettings> ParameterGroups::Settings() const {
  std::vector<RuleSettings> settings;
  for (const auto& [key, number] : ScalarSets()) {
    const auto& [group, begin] = key;
    settings.push_back(SettingsOf(groups_[group], begin));
  }
  return settings;
}

}  // namespace shardstep
