#include "shardstep/runtime/manifest_check.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_set>
#include <vector>

#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/runtime/safetensors.h"

namespace shardstep {
namespace {

constexpr size_t kMaxFiles = 1 << 20;
constexpr int64_t kMaxTotalElements = int64_t{1} << 40;

absl::Status Wrong(absl::string_view field, absl::string_view why) {
  return absl::DataLossError(absl::StrCat(field, ": ", why));
}

absl::Status CheckCounters(const Manifest& manifest) {
  if (manifest.step < 0) return Wrong("step", "negative");
  if (manifest.applied_steps < 0 || manifest.applied_steps > manifest.step) {
    return Wrong("applied_steps", "out of range");
  }
  if (manifest.skipped_steps < 0 || manifest.skipped_steps > manifest.step) {
    return Wrong("skipped_steps", "out of range");
  }
  if (manifest.consecutive_skips < 0 || manifest.consecutive_skips > manifest.skipped_steps) {
    return Wrong("consecutive_skips", "out of range");
  }
  if (!IsChunkBytes(manifest.chunk_bytes)) return Wrong("chunk_bytes", "not a multiple of 64 from 64 to 2^30");
  return absl::OkStatus();
}

absl::Status CheckParameters(std::vector<ManifestParameter>& parameters) {
  std::unordered_set<std::string_view> names;
  int64_t total = 0;
  for (ManifestParameter& parameter : parameters) {
    const std::string field = absl::StrCat("parameter \"", parameter.name, "\"");
    if (parameter.name.empty() || !IsUtf8(parameter.name)) return Wrong(field, "bad name");
    if (!names.insert(parameter.name).second) return Wrong(field, "twice");
    if (parameter.group < 0) return Wrong(field, "negative group");
    ParameterSpec spec;
    spec.name = parameter.name;
    spec.shape = parameter.shape;
    const absl::StatusOr<int64_t> elements = ElementCount(spec);
    if (!elements.ok()) return Wrong(field, elements.status().message());
    parameter.elements = *elements;
    total += parameter.elements;
    if (total > kMaxTotalElements) return Wrong(field, "more than 2^40 elements in all");
  }
  return absl::OkStatus();
}

absl::Status CheckKinds(const std::vector<ManifestKind>& kinds) {
  std::unordered_set<std::string_view> names;
  if (kinds.empty()) return Wrong("kind", "none");
  for (const ManifestKind& kind : kinds) {
    if (!IsKindName(kind.name)) return Wrong(absl::StrCat("kind \"", kind.name, "\""), "bad name");
    if (!names.insert(kind.name).second) return Wrong(absl::StrCat("kind \"", kind.name, "\""), "twice");
  }
  return absl::OkStatus();
}

// Each number is bounded before it is used, so that no sum can overflow: a range has at most 2^40 elements, and a file
// as many ranges as the manifest has bytes.
absl::Status CheckFile(const Manifest& manifest, const ManifestFile& file) {
  if (file.data_begin_bytes < kSafetensorsLengthBytes ||
      file.data_begin_bytes > kSafetensorsLengthBytes + kMaxSafetensorsHeaderBytes) {
    return absl::DataLossError("data_begin_bytes out of range");
  }
  int64_t end = file.data_begin_bytes;
  for (const ManifestRange& range : file.ranges) {
    if (range.parameter < 0 || range.parameter >= static_cast<int64_t>(manifest.parameters.size()) || range.kind < 0 ||
        range.kind >= static_cast<int64_t>(manifest.kinds.size())) {
      return absl::DataLossError(
          absl::StrCat("range of parameter ", range.parameter, ", kind ", range.kind, ", which are not in the tables"));
    }
    const ManifestParameter& parameter = manifest.parameters[static_cast<size_t>(range.parameter)];
    if (range.begin_element < 0 || range.begin_element >= range.end_element || range.end_element > parameter.elements ||
        range.begin_element % ShardLayout::kBlockElements != 0 ||
        (range.end_element % ShardLayout::kBlockElements != 0 && range.end_element != parameter.elements)) {
      return absl::DataLossError(absl::StrCat("range [", range.begin_element, ", ", range.end_element,
                                              ") is no run of blocks of \"", parameter.name, "\""));
    }
    if (__builtin_add_overflow(end, range.bytes(), &end)) return absl::DataLossError("ranges beyond 2^63 bytes");
  }
  if (file.size_bytes != end) {
    return absl::DataLossError(absl::StrCat("size_bytes is ", file.size_bytes, ", header and ranges have ", end));
  }
  const int64_t chunks = (end - 1) / manifest.chunk_bytes + 1;
  if (static_cast<int64_t>(file.chunk_hashes.size()) == chunks) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(file.chunk_hashes.size(), " hashes for ", chunks, " chunks"));
}

// Sorted, the ranges must be exactly the elements of one (parameter, kind) after the other.
absl::Status CheckCoverage(const Manifest& manifest) {
  std::vector<const ManifestRange*> ranges;
  for (const ManifestFile& file : manifest.files) {
    for (const ManifestRange& range : file.ranges) ranges.push_back(&range);
  }
  std::sort(ranges.begin(), ranges.end(), [](const ManifestRange* a, const ManifestRange* b) {
    return std::tie(a->parameter, a->kind, a->begin_element) < std::tie(b->parameter, b->kind, b->begin_element);
  });
  auto next = ranges.begin();
  for (int p = 0; p < static_cast<int>(manifest.parameters.size()); ++p) {
    for (int k = 0; k < static_cast<int>(manifest.kinds.size()); ++k) {
      int64_t end = 0;
      absl::string_view problem;
      for (; next != ranges.end() && (*next)->parameter == p && (*next)->kind == k && problem.empty(); ++next) {
        if ((*next)->begin_element < end) problem = "overlap";
        if ((*next)->begin_element > end) problem = "gap";
        if (problem.empty()) end = (*next)->end_element;
      }
      if (problem.empty() && end == manifest.parameters[static_cast<size_t>(p)].elements) continue;
      return absl::DataLossError(absl::StrCat("parameter \"", manifest.parameters[static_cast<size_t>(p)].name,
                                              "\", kind \"", manifest.kinds[static_cast<size_t>(k)].name,
                                              "\": ", problem.empty() ? "gap" : problem, " near element ", end));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckManifest(Manifest* manifest) {
  SHARDSTEP_RETURN_IF_ERROR(CheckCounters(*manifest));
  SHARDSTEP_RETURN_IF_ERROR(CheckParameters(manifest->parameters));
  SHARDSTEP_RETURN_IF_ERROR(CheckKinds(manifest->kinds));
  if (manifest->files.empty() || manifest->files.size() > kMaxFiles) return Wrong("file", "none, or more than 2^20");
  for (size_t i = 0; i < manifest->files.size(); ++i) {
    SHARDSTEP_RETURN_IF_ERROR(
        Annotate(CheckFile(*manifest, manifest->files[i]),
                 ShardFileName(static_cast<int64_t>(i), static_cast<int64_t>(manifest->files.size()))));
  }
  return CheckCoverage(*manifest);
}

}  // namespace shardstep
