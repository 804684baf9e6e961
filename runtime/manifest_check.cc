#include "shardstep/runtime/manifest_check.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
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

absl::Status CheckElements(ManifestParameter& parameter, absl::string_view field, int64_t* total) {
  ParameterSpec spec;
  spec.name = parameter.name;
  spec.shape = parameter.shape;
  const absl::StatusOr<int64_t> elements = ElementCount(spec);
  if (!elements.ok()) return Wrong(field, elements.status().message());
  parameter.elements = *elements;
  if (!parameter.tied()) *total += parameter.elements;
  return *total > kMaxTotalElements ? Wrong(field, "more than 2^40 elements in all") : absl::OkStatus();
}

absl::Status CheckUpdate(const ManifestParameter& parameter, absl::string_view field, int64_t applied_steps) {
  if (parameter.weight_dtype == "F32" && parameter.update.master != Master::kNone) {
    return Wrong(field, "a master behind F32 weights");
  }
  if (parameter.begin_applied_step > applied_steps) return Wrong(field, "begin_applied_step beyond applied_steps");
  if (parameter.begin_applied_step != 0 && (parameter.frozen || parameter.tied())) {
    return Wrong(field, "begin_applied_step without a state of its own");
  }
  return absl::OkStatus();
}

// What is tied is alike in everything that the state depends on.
absl::Status CheckTie(const ManifestParameter& parameter, const ManifestParameter& owner, absl::string_view field) {
  const bool alike = parameter.shape == owner.shape && parameter.weight_dtype == owner.weight_dtype &&
                     parameter.gradient_dtype == owner.gradient_dtype && parameter.group == owner.group &&
                     parameter.update == owner.update && parameter.frozen == owner.frozen;
  return alike ? absl::OkStatus()
               : Wrong(field, absl::StrCat("differs from \"", owner.name, "\", which it is tied to"));
}

absl::Status CheckParameters(std::vector<ManifestParameter>& parameters, int64_t applied_steps) {
  std::unordered_map<std::string_view, int> numbers;
  int64_t total = 0;
  for (ManifestParameter& parameter : parameters) {
    const std::string field = absl::StrCat("parameter \"", parameter.name, "\"");
    const int number = static_cast<int>(numbers.size());
    if (parameter.name.empty() || !IsUtf8(parameter.name)) return Wrong(field, "bad name");
    if (parameter.group < 0) return Wrong(field, "negative group");
    SHARDSTEP_RETURN_IF_ERROR(CheckElements(parameter, field, &total));
    SHARDSTEP_RETURN_IF_ERROR(CheckUpdate(parameter, field, applied_steps));
    parameter.owner = number;
    if (parameter.tied()) {
      const auto other = numbers.find(parameter.tied_to);
      if (other == numbers.end()) {
        return Wrong(field, absl::StrCat("tied_to \"", parameter.tied_to, "\" is no earlier parameter"));
      }
      parameter.owner = parameters[static_cast<size_t>(other->second)].owner;
      SHARDSTEP_RETURN_IF_ERROR(CheckTie(parameter, parameters[static_cast<size_t>(parameter.owner)], field));
    }
    if (!numbers.emplace(parameter.name, number).second) return Wrong(field, "twice");
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
    if (range.parameter < 0 || range.parameter >= static_cast<int64_t>(manifest.parameters.size())) {
      return absl::DataLossError(absl::StrCat("range of parameter ", range.parameter, ", which is not in the tables"));
    }
    const ManifestParameter& parameter = manifest.parameters[static_cast<size_t>(range.parameter)];
    if (!parameter.Has(range.kind)) {
      return absl::DataLossError(
          absl::StrCat("range of \"", parameter.name, "\", kind \"", Name(range.kind), "\", which it does not have"));
    }
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
    const ManifestParameter& parameter = manifest.parameters[static_cast<size_t>(p)];
    for (const StateKind kind : kStateKinds) {
      int64_t end = 0;
      absl::string_view problem;
      for (; next != ranges.end() && (*next)->parameter == p && (*next)->kind == kind && problem.empty(); ++next) {
        if ((*next)->begin_element < end) problem = "overlap";
        if ((*next)->begin_element > end) problem = "gap";
        if (problem.empty()) end = (*next)->end_element;
      }
      if (problem.empty() && end == (parameter.Has(kind) ? parameter.elements : 0)) continue;
      return absl::DataLossError(absl::StrCat("parameter \"", parameter.name, "\", kind \"", Name(kind),
                                              "\": ", problem.empty() ? "gap" : problem, " near element ", end));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckManifest(Manifest* manifest) {
  SHARDSTEP_RETURN_IF_ERROR(CheckCounters(*manifest));
  SHARDSTEP_RETURN_IF_ERROR(CheckParameters(manifest->parameters, manifest->applied_steps));
  if (manifest->files.empty() || manifest->files.size() > kMaxFiles) return Wrong("file", "none, or more than 2^20");
  for (size_t i = 0; i < manifest->files.size(); ++i) {
    SHARDSTEP_RETURN_IF_ERROR(
        Annotate(CheckFile(*manifest, manifest->files[i]),
                 ShardFileName(static_cast<int64_t>(i), static_cast<int64_t>(manifest->files.size()))));
  }
  return CheckCoverage(*manifest);
}

}  // namespace shardstep
