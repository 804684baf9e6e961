#include "shardstep/runtime/manifest_features.h"

#include <iterator>

namespace shardstep {
namespace {

// Bits of the format.
enum Feature { kSplitMaster, kOtherRules, kNativeWeights, kFrozen, kTied, kReducedState, kSumGroup, kBeginAppliedStep };
constexpr absl::string_view kNames[] = {"split_master", "other_rules",   "native_weights", "frozen",
                                        "tied",         "reduced_state", "sum_group",      "begin_applied_step"};

constexpr uint64_t Flag(Feature feature, bool used = true) { return used ? uint64_t{1} << feature : 0; }

constexpr uint64_t kKnown = Flag(kSplitMaster) | Flag(kOtherRules) | Flag(kNativeWeights) | Flag(kFrozen) |
                            Flag(kTied) | Flag(kSumGroup) | Flag(kBeginAppliedStep);

}  // namespace

uint64_t FeaturesOf(const Manifest& manifest) {
  uint64_t flags = Flag(kSumGroup, manifest.sum_group != 1);
  for (const ManifestParameter& parameter : manifest.parameters) {
    flags |= Flag(kSplitMaster, parameter.update.master == Master::kSplit) |
             Flag(kOtherRules, parameter.update.rule != Rule::kAdamW) |
             Flag(kNativeWeights, parameter.update.master == Master::kNone) | Flag(kFrozen, parameter.frozen) |
             Flag(kTied, parameter.tied()) | Flag(kBeginAppliedStep, parameter.begin_applied_step != 0);
  }
  return flags;
}

absl::Status CheckFeaturesKnown(uint64_t flags) {
  if ((flags & ~kKnown) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("features that this library does not know: ", FeatureList(flags & ~kKnown)));
}

std::string FeatureList(uint64_t flags) {
  if (flags == 0) return "none";
  std::string list;
  for (size_t bit = 0; bit < 64; ++bit) {
    if ((flags >> bit & 1) == 0) continue;
    absl::StrAppend(&list, list.empty() ? "" : ", ", "bit ", bit);
    if (bit < std::size(kNames)) absl::StrAppend(&list, " (", kNames[bit], ")");
  }
  return list;
}

}  // namespace shardstep
