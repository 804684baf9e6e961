#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "shardstep/runtime/checkpoint.h"
#include "shardstep/runtime/checkpoint_directory.h"
#include "shardstep/runtime/checkpoint_shard.h"
#include "shardstep/runtime/checkpoint_table.h"

namespace shardstep {
namespace {

// One load on one rank: candidates from the newest to the oldest. Between two agreements nothing returns early, so that
// all ranks make the same calls.
class Loader {
 public:
  Loader(const std::string& directory, const ShardLayout& layout, absl::Span<const CheckpointArray> arrays,
         Rendezvous& rendezvous, const CheckpointPolicy& policy)
      : path_(directory),
        layout_(layout),
        arrays_(arrays),
        rendezvous_(rendezvous),
        policy_(policy),
        file_system_(policy.file_system != nullptr ? *policy.file_system : real_),
        runs_(OwnedRuns(layout, rendezvous.rank())) {}

  absl::StatusOr<CheckpointInfo> Run(std::vector<std::string>* warnings) {
    SHARDSTEP_RETURN_IF_ERROR(Agree("directory", OpenDirectory()));
    SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<int64_t> steps, AgreedSteps());
    if (steps.empty()) return absl::NotFoundError(absl::StrCat(path_, ": no checkpoint"));
    std::string newest;  // why it is damaged
    for (const int64_t step : steps) {
      absl::StatusOr<CheckpointInfo> info = LoadStep(step);
      if (info.ok() || info.status().code() != absl::StatusCode::kDataLoss) return info;
      if (step == steps.front()) newest = std::string(info.status().message());
      if (warnings != nullptr) {
        warnings->push_back(
            absl::StrCat(CheckpointDirectory::NameOf(step), " is damaged, passed over: ", info.status().message()));
      }
    }
    return absl::DataLossError(
        absl::StrCat(path_, ": no whole checkpoint among ", steps.size(), ", the newest is damaged: ", newest));
  }

 private:
  absl::Status Agree(absl::string_view phase, const absl::Status& mine) {
    return AgreeOnStatus(rendezvous_, absl::StrCat("load checkpoint: ", phase), mine, policy_.deadline);
  }

  // What rank 0 has read, on every rank.
  absl::StatusOr<std::string> FromFirstRank(absl::string_view phase, absl::StatusOr<std::string> mine) {
    SHARDSTEP_RETURN_IF_ERROR(Agree(phase, mine.status()));
    SHARDSTEP_ASSIGN_OR_RETURN(
        std::vector<std::string> all,
        rendezvous_.AllGatherBytes(absl::StrCat("load checkpoint: ", phase), *mine, policy_.deadline));
    return std::move(all[0]);
  }

  bool first() const { return rendezvous_.rank() == 0; }

  absl::Status OpenDirectory() {
    if (layout_.world_size() != rendezvous_.world_size()) {
      return absl::InvalidArgumentError("layout of another world size");
    }
    SHARDSTEP_ASSIGN_OR_RETURN(CheckpointDirectory directory, CheckpointDirectory::Open(file_system_, path_));
    directory_.emplace(std::move(directory));
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<int64_t>> AgreedSteps() {
    absl::StatusOr<std::string> mine = std::string();
    if (first()) {
      const absl::StatusOr<std::vector<int64_t>> steps = directory_->Steps();
      if (steps.ok()) {
        *mine = absl::StrJoin(*steps, " ");
      } else {
        mine = steps.status();
      }
    }
    SHARDSTEP_ASSIGN_OR_RETURN(const std::string list, FromFirstRank("steps", std::move(mine)));
    std::vector<int64_t> steps;
    for (const absl::string_view text : absl::StrSplit(list, ' ', absl::SkipEmpty())) {
      int64_t step = 0;
      if (absl::SimpleAtoi(text, &step)) steps.push_back(step);
    }
    return steps;
  }

  absl::StatusOr<CheckpointInfo> LoadStep(int64_t step) {
    const std::string name = CheckpointDirectory::NameOf(step);
    SHARDSTEP_ASSIGN_OR_RETURN(
        const std::string bytes,
        FromFirstRank("manifest", first() ? directory_->ReadManifestBytes(name) : std::string()));
    absl::StatusOr<Manifest> manifest = DecodeManifest(bytes);
    TableMatch match;
    const absl::Status status = manifest.ok()
                                    ? ReadShards(step, *manifest, &match)
                                    : Annotate(manifest.status(), absl::StrCat(path_, "/", name, "/", kManifestName));
    SHARDSTEP_RETURN_IF_ERROR(Agree("shards", status));
    SHARDSTEP_ASSIGN_OR_RETURN(std::vector<Digest> digests, VerifiedDigests(*manifest, match));
    return CheckpointInfo{.step = manifest->step,
                          .applied_steps = manifest->applied_steps,
                          .skipped_steps = manifest->skipped_steps,
                          .consecutive_skips = manifest->consecutive_skips,
                          .options = std::move(manifest->options),
                          .caller_state = std::move(manifest->caller_state),
                          .digests = std::move(digests)};
  }

  absl::Status ReadShards(int64_t step, const Manifest& manifest, TableMatch* match) {
    const std::string name = CheckpointDirectory::NameOf(step);
    const std::string path = absl::StrCat(path_, "/", name, "/", kManifestName);
    if (manifest.step != step) return absl::DataLossError(absl::StrCat(path, ": of step ", manifest.step));
    absl::StatusOr<TableMatch> matched = MatchTables(manifest, layout_, arrays_);
    SHARDSTEP_RETURN_IF_ERROR(Annotate(matched.status(), path));
    *match = *std::move(matched);
    SHARDSTEP_ASSIGN_OR_RETURN(const DurableFile entry, directory_->OpenEntry(name));
    for (int i = 0; i < static_cast<int>(manifest.files.size()); ++i) {
      const std::vector<ShardCopy> copies = CopiesFrom(manifest.files[static_cast<size_t>(i)], *match);
      // A shard that nobody needs is looked at too: damage is found by this load, not by the next one.
      if (copies.empty() && i % rendezvous_.world_size() != rendezvous_.rank()) continue;
      SHARDSTEP_RETURN_IF_ERROR(ReadShard(entry, manifest, i, copies));
    }
    return absl::OkStatus();
  }

  std::vector<ShardCopy> CopiesFrom(const ManifestFile& file, const TableMatch& match) const {
    std::vector<ShardCopy> copies;
    int64_t position = file.data_begin_bytes;
    for (const ManifestRange& range : file.ranges) {
      const int parameter = match.layout_parameter[static_cast<size_t>(range.parameter)];
      float* data = arrays_[static_cast<size_t>(match.array[static_cast<size_t>(range.kind)])].data;
      auto run = std::partition_point(runs_.begin(), runs_.end(), [&](const OwnedRun& r) {
        return std::pair(r.parameter, r.end_element) <= std::pair(parameter, range.begin_element);
      });
      for (; run != runs_.end() && run->parameter == parameter && run->begin_element < range.end_element; ++run) {
        const int64_t begin = std::max(run->begin_element, range.begin_element);
        const int64_t end = std::min(run->end_element, range.end_element);
        copies.push_back({position + (begin - range.begin_element) * int64_t{sizeof(float)},
                          (end - begin) * int64_t{sizeof(float)},
                          reinterpret_cast<char*>(data + run->state_begin_element + (begin - run->begin_element))});
      }
      position += range.bytes();
    }
    return copies;
  }

  // In the order of the arrays.
  absl::StatusOr<std::vector<Digest>> VerifiedDigests(const Manifest& manifest, const TableMatch& match) {
    std::vector<int> numbers(manifest.parameters.size());
    for (size_t p = 0; p < numbers.size(); ++p) {
      numbers[static_cast<size_t>(match.layout_parameter[p])] = static_cast<int>(p);
    }
    SHARDSTEP_ASSIGN_OR_RETURN(std::vector<Digest> digests, SumDigests(DigestsOf(runs_, arrays_, numbers), rendezvous_,
                                                                       "load checkpoint: digests", policy_.deadline));
    for (size_t k = 0; k < manifest.kinds.size(); ++k) {
      const Digest& found = digests[static_cast<size_t>(match.array[k])];
      if (found == manifest.kinds[k].digest) continue;
      return absl::DataLossError(absl::StrCat(path_, "/", CheckpointDirectory::NameOf(manifest.step), ": digest of ",
                                              manifest.kinds[k].name, " is ", found.ToHex(), ", the manifest says ",
                                              manifest.kinds[k].digest.ToHex()));
    }
    return digests;
  }

  const std::string& path_;
  const ShardLayout& layout_;
  const absl::Span<const CheckpointArray> arrays_;
  Rendezvous& rendezvous_;
  const CheckpointPolicy& policy_;
  FileSystem real_;
  FileSystem& file_system_;
  const std::vector<OwnedRun> runs_;
  std::optional<CheckpointDirectory> directory_;
};

}  // namespace

absl::StatusOr<CheckpointInfo> LoadCheckpoint(const std::string& directory, const ShardLayout& layout,
                                              absl::Span<const CheckpointArray> arrays, Rendezvous& rendezvous,
                                              const CheckpointPolicy& policy, std::vector<std::string>* warnings) {
  return Loader(directory, layout, arrays, rendezvous, policy).Run(warnings);
}

}  // namespace shardstep
