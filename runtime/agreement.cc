#include "shardstep/runtime/agreement.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "shardstep/runtime/version.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace shardstep {
namespace {

std::string DigestOfLines(const std::string& text) {
  const XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
  return absl::StrCat(absl::Hex(hash.high64, absl::kZeroPad16), absl::Hex(hash.low64, absl::kZeroPad16));
}

std::string FirstDifference(const std::string& mine, const std::string& other) {
  const std::vector<std::string> a = absl::StrSplit(mine, '\n');
  const std::vector<std::string> b = absl::StrSplit(other, '\n');
  const auto [x, y] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return absl::StrCat("\"", x == a.end() ? "nothing" : *x, "\" against \"", y == b.end() ? "nothing" : *y, "\"");
}

}  // namespace

std::vector<std::string> DescribeConfiguration(const OptimizerOptions& options, const ShardLayout& layout) {
  std::vector<std::string> lines = {absl::StrCat("build = Shardstep ", kVersion),
                                    absl::StrCat("world size = ", layout.world_size()),
                                    absl::StrCat("parameters = ", layout.parameter_count())};
  for (int p = 0; p < layout.parameter_count(); ++p) {
    const ParameterSpec& spec = layout.parameter(p);
    lines.push_back(absl::StrCat("parameter ", p, " = ", spec.name, " [", absl::StrJoin(spec.shape, ","), "] group ",
                                 spec.group, " weights ", Name(spec.weight_dtype), " gradients ",
                                 Name(spec.gradient_dtype), spec.frozen ? " frozen" : "",
                                 spec.tied_to.empty() ? "" : absl::StrCat(" tied to ", spec.tied_to),
                                 spec.norm_weight == 1 ? "" : absl::StrCat(" norm weight ", spec.norm_weight)));
  }
  for (std::string& line : DescribeOptions(options)) {
    if (!absl::StartsWith(line, "update_threads")) lines.push_back(std::move(line));
  }
  return lines;
}

absl::Status AgreeOnValue(Rendezvous& rendezvous, absl::string_view what, absl::string_view value,
                          absl::Duration deadline) {
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> values, rendezvous.AllGatherBytes(what, value, deadline));
  for (size_t rank = 1; rank < values.size(); ++rank) {
    if (values[rank] == values[0]) continue;
    return absl::FailedPreconditionError(
        absl::StrCat(what, ": ranks 0 and ", rank, " differ: \"", values[0], "\" against \"", values[rank], "\""));
  }
  return absl::OkStatus();
}

absl::Status AgreeOnConfiguration(const std::vector<std::string>& lines, Rendezvous& rendezvous,
                                  absl::Duration deadline) {
  const std::string text = absl::StrJoin(lines, "\n");
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> digests,
                             rendezvous.AllGatherBytes("digest of the configuration", DigestOfLines(text), deadline));
  const auto other = std::find_if(digests.begin(), digests.end(),
                                  [&](const std::string& digest) { return digest != digests.front(); });
  if (other == digests.end()) return absl::OkStatus();
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> texts,
                             rendezvous.AllGatherBytes("configuration", text, deadline));
  const int rank = static_cast<int>(other - digests.begin());
  return absl::FailedPreconditionError(
      absl::StrCat("ranks 0 and ", rank, " have different configurations: ", FirstDifference(texts[0], texts[rank])));
}

}  // namespace shardstep
