#include "shardstep/runtime/joint_table.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace shardstep {
namespace {

constexpr int64_t kMaxElements = int64_t{1} << 40;

const char* Name(NonFinitePolicy policy) {
  switch (policy) {
    case NonFinitePolicy::kSkip:
      return "SKIP";
    case NonFinitePolicy::kError:
      return "ERROR";
    case NonFinitePolicy::kIgnore:
      break;
  }
  return "IGNORE";
}

bool ParseEntry(const std::vector<std::string>& fields, JointEntry* entry) {
  int policy = 0;
  const bool parsed = fields.size() == 6 && absl::CUnescape(fields[1], &entry->name) &&
                      absl::SimpleAtoi(fields[2], &entry->rank) && absl::SimpleAtoi(fields[3], &entry->world_size) &&
                      absl::SimpleAtoi(fields[4], &policy) &&
                      absl::SimpleAtoi(fields[5], &entry->max_consecutive_skips);
  entry->non_finite = static_cast<NonFinitePolicy>(policy);
  return parsed && entry->world_size >= 1 && entry->rank >= 0 && entry->rank < entry->world_size;
}

bool ParseParameter(const std::vector<std::string>& fields, JointEntry* entry) {
  auto& [name, elements] = entry->parameters.emplace_back();
  return fields.size() == 3 && absl::CUnescape(fields[1], &name) && absl::SimpleAtoi(fields[2], &elements);
}

// What all members must have alike.
absl::Status ComparePolicies(const JointEntry& a, int a_rank, const JointEntry& b, int b_rank) {
  const auto differ = [&](absl::string_view field, auto x, auto y) {
    return absl::FailedPreconditionError(absl::StrCat("JoinDecisions: ", field, " is ", x, " in ", Quoted(a.name),
                                                      " on rank ", a_rank, " and ", y, " in ", Quoted(b.name),
                                                      " on rank ", b_rank));
  };
  if (a.non_finite != b.non_finite) return differ("non_finite", Name(a.non_finite), Name(b.non_finite));
  if (a.max_consecutive_skips == b.max_consecutive_skips) return absl::OkStatus();
  return differ("max_consecutive_skips", a.max_consecutive_skips, b.max_consecutive_skips);
}

}  // namespace

std::string Quoted(absl::string_view name) { return absl::StrCat("\"", name, "\""); }

// ---- Entries -------------------------------------------------------------------------------------------------------

JointEntry MakeJointEntry(const std::string& name, int rank, const ShardLayout& layout,
                          const OptimizerOptions& options) {
  JointEntry entry{.name = name,
                   .rank = rank,
                   .world_size = layout.world_size(),
                   .non_finite = options.non_finite,
                   .max_consecutive_skips = options.max_consecutive_skips};
  for (int p = 0; p < layout.parameter_count(); ++p) {
    if (layout.owner(p) == p) entry.parameters.emplace_back(layout.parameter(p).name, layout.elements(p));
  }
  return entry;
}

std::string EncodeEntries(absl::Span<const JointEntry> entries) {
  std::string text;
  for (const JointEntry& entry : entries) {
    absl::StrAppend(&text, "optimizer\t", absl::CEscape(entry.name), "\t", entry.rank, "\t", entry.world_size, "\t",
                    static_cast<int>(entry.non_finite), "\t", entry.max_consecutive_skips, "\n");
    for (const auto& [name, elements] : entry.parameters) {
      absl::StrAppend(&text, "parameter\t", absl::CEscape(name), "\t", elements, "\n");
    }
  }
  return text;
}

absl::StatusOr<std::vector<JointEntry>> DecodeEntries(absl::string_view text) {
  std::vector<JointEntry> entries;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::vector<std::string> fields = absl::StrSplit(line, '\t');
    bool parsed = false;
    if (fields[0] == "optimizer") {
      parsed = ParseEntry(fields, &entries.emplace_back());
    } else if (fields[0] == "parameter" && !entries.empty()) {
      parsed = ParseParameter(fields, &entries.back());
    }
    if (!parsed) return absl::InternalError(absl::StrCat("not the text of an optimizer: ", Quoted(line)));
  }
  if (entries.empty()) return absl::InternalError("no optimizer");
  return entries;
}

// ---- The table -----------------------------------------------------------------------------------------------------

absl::StatusOr<JointTable> JointTable::Create(const std::vector<std::vector<JointEntry>>& entries_by_rank) {
  JointTable table;
  SHARDSTEP_RETURN_IF_ERROR(table.AddMembers(entries_by_rank));
  SHARDSTEP_RETURN_IF_ERROR(table.NumberAll());
  return table;
}

absl::Status JointTable::AddMembers(const std::vector<std::vector<JointEntry>>& entries_by_rank) {
  for (size_t rank = 0; rank < entries_by_rank.size(); ++rank) {
    members_by_rank_.emplace_back();
    for (const JointEntry& entry : entries_by_rank[rank]) {
      SHARDSTEP_RETURN_IF_ERROR(ComparePolicies(entries_by_rank[0][0], 0, entry, static_cast<int>(rank)));
      const auto found = std::find_if(members_.begin(), members_.end(),
                                      [&](const Member& member) { return member.name == entry.name; });
      const int member = static_cast<int>(found - members_.begin());
      if (found == members_.end()) {
        members_.push_back(
            {.name = entry.name, .ranks = std::vector<int>(entry.world_size, -1), .parameters = entry.parameters});
      }
      SHARDSTEP_RETURN_IF_ERROR(Seat(entry, member, static_cast<int>(rank)));
      members_by_rank_.back().push_back(member);
    }
  }
  return absl::OkStatus();
}

absl::Status JointTable::Seat(const JointEntry& entry, int member, int rank) {
  std::vector<int>& ranks = members_[member].ranks;
  const int first = *std::max_element(ranks.begin(), ranks.end());
  if (first >= 0 &&
      (ranks.size() != static_cast<size_t>(entry.world_size) || members_[member].parameters != entry.parameters)) {
    return absl::InvalidArgumentError(absl::StrCat("JoinDecisions: ranks ", first, " and ", rank,
                                                   " give different optimizers the name ", Quoted(entry.name)));
  }
  if (ranks[entry.rank] >= 0) {
    return absl::InvalidArgumentError(absl::StrCat("JoinDecisions: ranks ", ranks[entry.rank], " and ", rank,
                                                   " are both rank ", entry.rank, " of ", Quoted(entry.name)));
  }
  ranks[entry.rank] = rank;
  return absl::OkStatus();
}

absl::Status JointTable::NumberAll() {
  int64_t seats = 0;
  int64_t elements = 0;
  for (Member& member : members_) {
    const auto absent = std::find(member.ranks.begin(), member.ranks.end(), -1);
    if (absent != member.ranks.end()) {
      return absl::InvalidArgumentError(absl::StrCat("JoinDecisions: rank ", absent - member.ranks.begin(), " of ",
                                                     Quoted(member.name), " is on none of the ranks"));
    }
    member.first_seat = static_cast<int>(seats);
    member.begin_element = elements;
    seats += static_cast<int64_t>(member.ranks.size());
    for (const auto& [name, count] : member.parameters) elements += count;
    if (seats > kMaxParticipants || elements > kMaxElements) {
      return absl::InvalidArgumentError(absl::StrCat("JoinDecisions: all optimizers together have more than ",
                                                     kMaxParticipants, " ranks or ", kMaxElements, " elements"));
    }
  }
  return absl::OkStatus();
}

absl::Status JointTable::Refusal(const Objection& objection) const {
  const Member& member = members_[objection.member];
  Objection translated = objection;
  translated.first = member.ranks[objection.first];
  if (objection.what != Objection::kMisplaced) translated.other = member.ranks[objection.other];
  return Annotate(shardstep::Refusal(translated), Quoted(member.name));
}

std::string JointTable::DescribeSeat(int seat) const {
  const auto next =
      std::find_if(members_.begin(), members_.end(), [&](const Member& member) { return member.first_seat > seat; });
  const Member& member = *std::prev(next);
  return absl::StrCat("rank ", member.ranks[seat - member.first_seat], " (", Quoted(member.name), ")");
}

NonFinitePlace JointTable::Locate(const FoundPlace& place) const {
  // The last that begins there: others have no elements.
  const auto next = std::find_if(members_.begin(), members_.end(),
                                 [&](const Member& member) { return member.begin_element > place.global_element; });
  const Member& member = *std::prev(next);
  int64_t element = place.global_element - member.begin_element;
  auto parameter = member.parameters.begin();
  while (element >= parameter->second) element -= (parameter++)->second;
  return {.micro_batch = place.micro_batch,
          .rank = member.ranks[place.micro_batch % static_cast<int64_t>(member.ranks.size())],
          .parameter = parameter->first,
          .optimizer = member.name,
          .element = element,
          .sum_overflow = place.sum_overflow};
}

}  // namespace shardstep
