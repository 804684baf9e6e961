#include "shardstep/runtime/checkpoint_table.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_join.h"

namespace shardstep {
namespace {

std::string ShapeText(absl::Span<const int64_t> shape) { return absl::StrCat("[", absl::StrJoin(shape, ","), "]"); }

std::string RuleText(const UpdateKind& update) {
  return absl::StrCat(Name(update.rule), update.has_first_moment() ? "" : " without momentum");
}

bool SameMoments(const UpdateKind& a, const UpdateKind& b) {
  return a.rule == b.rule && a.has_first_moment() == b.has_first_moment();
}

// What is saved of p's master: nothing beyond the weights unless some bucket keeps more.
Master SavedMaster(const ShardLayout& layout, const StateAccess& state, int p, const UpdateKind& update) {
  if (layout.parameter(p).weight_dtype == DType::kFp32) return Master::kNone;
  const absl::Span<const int> buckets = layout.buckets_of(p);
  const bool all_rounded =
      !buckets.empty() && std::all_of(buckets.begin(), buckets.end(), [&](int b) { return state.RoundsMaster(b); });
  return all_rounded ? Master::kNone : update.master;
}

// Finds what differs between the parameters on both sides.
class Matcher {
 public:
  Matcher(const Manifest& manifest, const ShardLayout& layout, const StateAccess& state, const CheckpointTarget& target)
      : manifest_(manifest), layout_(layout), state_(state), target_(target) {}

  absl::StatusOr<TableMatch> Run() {
    Pair();
    for (size_t m = 0; m < manifest_.parameters.size(); ++m) {
      const int p = layout_parameter_[m];
      if (p < 0) {
        Problem("unknown", manifest_.parameters[m].name, "only in the checkpoint");
      } else {
        Compare(manifest_.parameters[m], p);
      }
    }
    for (int p = 0; p < layout_.parameter_count(); ++p) {
      if (manifest_parameter_[static_cast<size_t>(p)] >= 0) continue;
      Problem("missing", layout_.parameter(p).name, "not in the checkpoint");
    }
    if (!problems_.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("does not fit: ", absl::StrJoin(problems_, "; ")));
    }
    match_.warnings = Warnings();
    return std::move(match_);
  }

 private:
  // By name, and each by the owner on the other side.
  void Pair() {
    manifest_parameter_.assign(static_cast<size_t>(layout_.parameter_count()), -1);
    for (size_t m = 0; m < manifest_.parameters.size(); ++m) {
      const int p = layout_.FindParameter(manifest_.parameters[m].name);
      layout_parameter_.push_back(p);
      if (p >= 0) manifest_parameter_[static_cast<size_t>(p)] = static_cast<int>(m);
      match_.layout_owner.push_back(p < 0 ? -1 : layout_.owner(p));
    }
    for (const int m : manifest_parameter_) {
      match_.manifest_owner.push_back(m < 0 ? -1 : manifest_.parameters[static_cast<size_t>(m)].owner);
    }
  }

  void Problem(absl::string_view what, absl::string_view name, absl::string_view why) {
    problems_.push_back(absl::StrCat(what, " \"", name, "\": ", why));
  }

  void Compare(const ManifestParameter& saved, int p) {
    const ParameterSpec& spec = layout_.parameter(p);
    const CheckpointParameterInfo& now = target_.parameters[static_cast<size_t>(layout_.owner(p))];
    const auto differ = [&](absl::string_view what, const std::string& there, const std::string& here) {
      if (there != here) Problem(what, spec.name, absl::StrCat(there, " in the checkpoint, ", here, " here"));
    };
    differ("reshaped", ShapeText(saved.shape), ShapeText(spec.shape));
    differ("retyped", absl::StrCat(saved.weight_dtype, " (gradient ", saved.gradient_dtype, ")"),
           absl::StrCat(DtypeName(spec.weight_dtype), " (gradient ", DtypeName(spec.gradient_dtype), ")"));
    if (!SameMoments(saved.update, now.update)) {
      differ("other rule of", RuleText(saved.update), RuleText(now.update));
    }
    CompareTie(saved, p);
    if (saved.update.master != Master::kNone && now.update.master == Master::kNone && !now.frozen) {
      Problem("master of", spec.name, absl::StrCat(Name(saved.update.master), " in the checkpoint, none here"));
    }
    if (layout_.owner(p) == p) Note(saved, now, p);
  }

  // Who shares weights here must share them there, whichever of them comes first.
  void CompareTie(const ManifestParameter& saved, int p) {
    const int owner = layout_.owner(p);
    const bool here = match_.layout_owner[static_cast<size_t>(saved.owner)] == owner;
    const bool there = match_.manifest_owner[static_cast<size_t>(owner)] == saved.owner;
    if (here && there) return;
    const auto text = [](absl::string_view tied_to) {
      return tied_to.empty() ? std::string("by itself") : absl::StrCat("tied to \"", tied_to, "\"");
    };
    Problem("tied differently", saved.name,
            absl::StrCat(text(saved.tied_to), " in the checkpoint, ", text(layout_.parameter(p).tied_to), " here"));
  }

  // What fits, and yet is not loaded as it was saved.
  void Note(const ManifestParameter& saved, const CheckpointParameterInfo& now, int p) {
    const std::string name = absl::StrCat("\"", saved.name, "\"");
    if (saved.frozen && !now.frozen) thawed_.push_back(name);
    if (!saved.frozen && now.frozen) frozen_.push_back(name);
    const bool rounds = now.frozen && layout_.elements(p) > 0 && layout_.parameter(p).weight_dtype == DType::kBf16;
    if (saved.update.master != Master::kNone && !saved.frozen && rounds) rounded_.push_back(name);
  }

  std::vector<std::string> Warnings() const {
    std::vector<std::string> warnings;
    const auto warn = [&](const std::vector<std::string>& names, absl::string_view what) {
      if (!names.empty()) warnings.push_back(absl::StrCat(what, ": ", absl::StrJoin(names, ", ")));
    };
    warn(thawed_, "frozen in the checkpoint and not here, so their moments begin at zero");
    warn(frozen_, "frozen here and not in the checkpoint, so their moments are left out");
    warn(rounded_, "frozen here, so their master weights are rounded to bf16");
    if (manifest_.sum_group != target_.sum_group) {
      warnings.push_back(absl::StrCat("sum_group is ", manifest_.sum_group, " in the checkpoint, ", target_.sum_group,
                                      " here: the run goes on in other bits"));
    }
    return warnings;
  }

  const Manifest& manifest_;
  const ShardLayout& layout_;
  const StateAccess& state_;
  const CheckpointTarget& target_;
  std::vector<int> layout_parameter_;    // by parameter of the manifest
  std::vector<int> manifest_parameter_;  // by parameter of the layout
  TableMatch match_;
  std::vector<std::string> problems_;
  std::vector<std::string> thawed_;
  std::vector<std::string> frozen_;
  std::vector<std::string> rounded_;
};

}  // namespace

std::string DtypeName(DType dtype) {
  switch (dtype) {
    case DType::kBf16:
      return "BF16";
    case DType::kFp32:
      return "F32";
    case DType::kFp16:
      return "F16";
  }
  return "?";
}

absl::Status CheckKept(const ShardLayout& layout, const StateAccess& state,
                       absl::Span<const CheckpointParameterInfo> parameters) {
  if (parameters.size() != static_cast<size_t>(layout.parameter_count())) {
    return absl::InvalidArgumentError(
        absl::StrCat("parameters: ", parameters.size(), ", the layout has ", layout.parameter_count()));
  }
  for (int p = 0; p < layout.parameter_count(); ++p) {
    const CheckpointParameterInfo& info = parameters[static_cast<size_t>(layout.owner(p))];
    for (const int b : layout.buckets_of(p)) {
      if (info.frozen || ((!info.update.has_first_moment() || state.Has(StateKind::kFirstMoment, b)) &&
                          (!info.update.has_second_moment() || state.Has(StateKind::kSecondMoment, b)))) {
        continue;
      }
      return absl::InvalidArgumentError(absl::StrCat("parameter \"", layout.parameter(p).name, "\": bucket ", b,
                                                     " does not keep the moments of ", Name(info.update.rule)));
    }
  }
  return absl::OkStatus();
}

std::vector<ManifestParameter> MakeTable(const ShardLayout& layout, const StateAccess& state,
                                         absl::Span<const CheckpointParameterInfo> parameters) {
  std::vector<ManifestParameter> table;
  for (int p = 0; p < layout.parameter_count(); ++p) {
    const ParameterSpec& spec = layout.parameter(p);
    const CheckpointParameterInfo& info = parameters[static_cast<size_t>(layout.owner(p))];
    const bool begins = !info.frozen && spec.tied_to.empty();
    table.push_back({.name = spec.name,
                     .shape = spec.shape,
                     .elements = layout.elements(p),
                     .group = spec.group,
                     .weight_dtype = DtypeName(spec.weight_dtype),
                     .gradient_dtype = DtypeName(spec.gradient_dtype),
                     .update = info.update,
                     .frozen = info.frozen,
                     .begin_applied_step = begins ? info.begin_applied_step : 0,
                     .tied_to = spec.tied_to,
                     .owner = layout.owner(p)});
    table.back().update.master = SavedMaster(layout, state, p, info.update);
  }
  return table;
}

absl::StatusOr<TableMatch> MatchTables(const Manifest& manifest, const ShardLayout& layout, const StateAccess& state,
                                       const CheckpointTarget& target) {
  return Matcher(manifest, layout, state, target).Run();
}

absl::StatusOr<std::vector<Digest>> SumDigests(absl::Span<const Digest> mine, Rendezvous& rendezvous,
                                               absl::string_view what, absl::Duration deadline) {
  const absl::string_view bytes(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(Digest));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> all, rendezvous.AllGatherBytes(what, bytes, deadline));
  std::vector<Digest> sums(mine.size());
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].size() != bytes.size()) {
      return absl::FailedPreconditionError(absl::StrCat(what, ": rank ", rank, " has another number of digests"));
    }
    for (size_t k = 0; k < sums.size(); ++k) {
      Digest digest;
      std::memcpy(&digest, all[rank].data() + k * sizeof(Digest), sizeof(Digest));
      sums[k] += digest;
    }
  }
  return sums;
}

}  // namespace shardstep
