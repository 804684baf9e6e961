#include "shardstep/runtime/checkpoint_table.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_join.h"

namespace shardstep {
namespace {

std::string ShapeText(absl::Span<const int64_t> shape) { return absl::StrCat("[", absl::StrJoin(shape, ","), "]"); }

void CompareParameter(const ManifestParameter& saved, const ParameterSpec& spec, std::vector<std::string>* problems) {
  if (saved.shape != spec.shape) {
    problems->push_back(absl::StrCat("reshaped \"", spec.name, "\": ", ShapeText(saved.shape), " in the checkpoint, ",
                                     ShapeText(spec.shape), " here"));
  }
  const std::string saved_dtypes = absl::StrCat(saved.weight_dtype, " (gradient ", saved.gradient_dtype, ")");
  const std::string dtypes =
      absl::StrCat(DtypeName(spec.weight_dtype), " (gradient ", DtypeName(spec.gradient_dtype), ")");
  if (saved_dtypes != dtypes) {
    problems->push_back(
        absl::StrCat("retyped \"", spec.name, "\": ", saved_dtypes, " in the checkpoint, ", dtypes, " here"));
  }
}

void MatchParameters(const Manifest& manifest, const ShardLayout& layout, TableMatch* match,
                     std::vector<std::string>* problems) {
  std::vector<bool> found(static_cast<size_t>(layout.parameter_count()));
  for (const ManifestParameter& saved : manifest.parameters) {
    const int p = layout.FindParameter(saved.name);
    match->layout_parameter.push_back(p);
    if (p < 0) {
      problems->push_back(absl::StrCat("unknown \"", saved.name, "\": only in the checkpoint"));
      continue;
    }
    found[static_cast<size_t>(p)] = true;
    CompareParameter(saved, layout.parameter(p), problems);
  }
  for (int p = 0; p < layout.parameter_count(); ++p) {
    if (found[static_cast<size_t>(p)]) continue;
    problems->push_back(absl::StrCat("missing \"", layout.parameter(p).name, "\": not in the checkpoint"));
  }
}

void MatchKinds(const Manifest& manifest, absl::Span<const CheckpointArray> arrays, TableMatch* match,
                std::vector<std::string>* problems) {
  std::vector<bool> found(arrays.size());
  for (const ManifestKind& kind : manifest.kinds) {
    const auto array =
        std::find_if(arrays.begin(), arrays.end(), [&](const CheckpointArray& a) { return a.kind == kind.name; });
    match->array.push_back(static_cast<int>(array - arrays.begin()));
    if (array == arrays.end()) {
      problems->push_back(absl::StrCat("unknown kind \"", kind.name, "\": only in the checkpoint"));
    } else {
      found[static_cast<size_t>(array - arrays.begin())] = true;
    }
  }
  for (size_t k = 0; k < arrays.size(); ++k) {
    if (!found[k]) problems->push_back(absl::StrCat("missing kind \"", arrays[k].kind, "\": not in the checkpoint"));
  }
}

}  // namespace

std::string DtypeName(DType dtype) { return dtype == DType::kBf16 ? "BF16" : "F32"; }

absl::StatusOr<TableMatch> MatchTables(const Manifest& manifest, const ShardLayout& layout,
                                       absl::Span<const CheckpointArray> arrays) {
  TableMatch match;
  std::vector<std::string> problems;
  MatchParameters(manifest, layout, &match, &problems);
  MatchKinds(manifest, arrays, &match, &problems);
  if (problems.empty()) return match;
  return absl::InvalidArgumentError(absl::StrCat("does not fit: ", absl::StrJoin(problems, "; ")));
}

absl::StatusOr<std::vector<Digest>> SumDigests(absl::Span<const Digest> mine, Rendezvous& rendezvous,
                                               absl::string_view what, absl::Duration deadline) {
  const absl::string_view bytes(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(Digest));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> all, rendezvous.AllGatherBytes(what, bytes, deadline));
  std::vector<Digest> sums(mine.size());
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].size() != bytes.size()) {
      return absl::FailedPreconditionError(absl::StrCat(what, ": rank ", rank, " has another number of arrays"));
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
