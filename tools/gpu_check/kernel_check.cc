#include "shardstep/tools/gpu_check/kernel_check.h"

#include <algorithm>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "shardstep/optimizer/digest.h"
#include "shardstep/tools/gpu_check/decision_case.h"

namespace shardstep::gpu_check {
namespace {

// Of one launch: so many elements that a device is busy, and so few that a copy of every array is small.
constexpr int64_t kMostElements = int64_t{1} << 18;
constexpr int64_t kFewestElements = 5000;
constexpr int64_t kDigests = 60;

absl::StatusOr<int64_t> CompareShards(KernelTarget& judge, KernelTarget& tested, const KernelCheckOptions& options) {
  const int64_t of_each = std::clamp(options.elements / kSpecs, kFewestElements, kMostElements);
  int64_t compared = 0;
  for (int64_t index = 0; compared < options.elements || index < kSpecs; ++index) {
    const CaseSpec spec = SpecOf(index, of_each, options.seed);
    KernelCase kernel_case(spec);
    SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::byte> expected, judge.Run(kernel_case));
    SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::byte> actual, tested.Run(kernel_case));
    const std::string difference = kernel_case.Difference(actual, expected);
    if (!difference.empty()) {
      return absl::InternalError(
          absl::StrCat(tested.name(), " differs from ", judge.name(), " in ", difference, " (", Describe(spec), ")"));
    }
    compared += kernel_case.elements();
  }
  return compared;
}

absl::Status CompareDecisions(KernelTarget& judge, KernelTarget& tested, const KernelCheckOptions& options) {
  for (int64_t index = 0; index < options.decisions; ++index) {
    DecisionCase expected = DecisionOf(index, options.seed);
    DecisionCase actual = expected;
    SHARDSTEP_RETURN_IF_ERROR(judge.Run(&expected));
    SHARDSTEP_RETURN_IF_ERROR(tested.Run(&actual));
    const std::string difference = Difference(actual, expected);
    if (!difference.empty()) {
      return absl::InternalError(absl::StrCat(tested.name(), " differs from ", judge.name(), " in ", difference,
                                              " of decision ", index, ", seed ", options.seed));
    }
  }
  return absl::OkStatus();
}

DigestCase DigestCaseOf(int64_t index, uint64_t seed) {
  constexpr int64_t kMost = 300'000;
  std::mt19937_64 random(seed * 1000 + static_cast<uint64_t>(index));
  DigestCase digest{.form = static_cast<DigestForm>(index % 3), .begin_element = index * 1024};
  // Around the ends of blocks and of the hash's own cases, and large.
  constexpr int64_t kSizes[] = {1, 7, 56, 57, 112, 113, 1023, 1024, 1025, kMost};
  digest.elements = kSizes[index / 6 % std::size(kSizes)];
  digest.values.resize(static_cast<size_t>(digest.elements * (digest.form == DigestForm::kFp32 ? 2 : 1)));
  for (uint16_t& half : digest.values) half = static_cast<uint16_t>(random());
  if (digest.form != DigestForm::kWidened || index % 2 == 0) return digest;
  digest.remainders.resize(static_cast<size_t>(digest.elements));
  for (uint16_t& half : digest.remainders) half = static_cast<uint16_t>(random());
  return digest;
}

absl::Status CompareDigests(KernelTarget& judge, KernelTarget& tested, const KernelCheckOptions& options) {
  for (int64_t index = 0; index < kDigests; ++index) {
    const DigestCase digest = DigestCaseOf(index, options.seed);
    SHARDSTEP_ASSIGN_OR_RETURN(const Digest expected, judge.Run(digest));
    SHARDSTEP_ASSIGN_OR_RETURN(const Digest actual, tested.Run(digest));
    if (!(actual == expected)) {
      return absl::InternalError(absl::StrCat(tested.name(), " differs from ", judge.name(), " in digest ", index,
                                              ", seed ", options.seed, ": ", actual.ToHex(), " is not ",
                                              expected.ToHex()));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Digest> HashOf(KernelTarget& target) {
  constexpr int64_t kElements = 20'000;
  Digest hash;
  for (int64_t index = 0; index < kSpecs; ++index) {
    KernelCase kernel_case(SpecOf(index, kElements, /*seed=*/5));
    SHARDSTEP_ASSIGN_OR_RETURN(std::vector<std::byte> bytes, target.Run(kernel_case));
    bytes = kernel_case.Canonical(std::move(bytes));
    bytes.resize((bytes.size() + 1) / 2 * 2);
    hash += DigestOf(index, 0, absl::MakeConstSpan(reinterpret_cast<const Bf16*>(bytes.data()), bytes.size() / 2));
  }
  return hash;
}

}  // namespace

absl::StatusOr<std::string> CheckKernels(KernelTarget& judge, KernelTarget& tested, const KernelCheckOptions& options) {
  SHARDSTEP_ASSIGN_OR_RETURN(const int64_t compared, CompareShards(judge, tested, options));
  SHARDSTEP_RETURN_IF_ERROR(CompareDecisions(judge, tested, options));
  SHARDSTEP_RETURN_IF_ERROR(CompareDigests(judge, tested, options));
  return absl::StrCat(tested.name(), " has the bits of ", judge.name(), " in ", compared, " elements, ",
                      options.decisions, " decisions and ", kDigests, " digests");
}

absl::StatusOr<std::string> CheckOneHash(absl::Span<const std::unique_ptr<KernelTarget>> targets) {
  std::vector<std::string> names, hashes;
  for (const std::unique_ptr<KernelTarget>& target : targets) {
    SHARDSTEP_ASSIGN_OR_RETURN(const Digest hash, HashOf(*target));
    names.push_back(target->name());
    hashes.push_back(hash.ToHex());
  }
  const bool same =
      std::all_of(hashes.begin(), hashes.end(), [&](const std::string& hash) { return hash == hashes[0]; });
  if (same) return absl::StrCat("one hash, ", hashes.empty() ? "" : hashes[0], ": ", absl::StrJoin(names, ", "));
  for (size_t i = 0; i < names.size(); ++i) absl::StrAppend(&names[i], " ", hashes[i]);
  return absl::InternalError(absl::StrCat("hashes differ: ", absl::StrJoin(names, ", ")));
}

}  // namespace shardstep::gpu_check
