#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "absl/functional/function_ref.h"
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
  Loader(const std::string& directory, const ShardLayout& layout, const StateAccess& state,
         const CheckpointTarget& target, Rendezvous& rendezvous, const CheckpointPolicy& policy)
      : path_(directory),
        layout_(layout),
        state_(state),
        target_(target),
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
      absl::StatusOr<CheckpointInfo> info = LoadStep(step, warnings);
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
    SHARDSTEP_RETURN_IF_ERROR(CheckKept(layout_, state_, target_.parameters));
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

  absl::StatusOr<CheckpointInfo> LoadStep(int64_t step, std::vector<std::string>* warnings) {
    const std::string name = CheckpointDirectory::NameOf(step);
    SHARDSTEP_ASSIGN_OR_RETURN(
        const std::string bytes,
        FromFirstRank("manifest", first() ? directory_->ReadManifestBytes(name) : std::string()));
    absl::StatusOr<Manifest> manifest = DecodeManifest(bytes);
    TableMatch match;
    std::vector<Digest> found(std::size(kStateKinds));
    const absl::Status status = manifest.ok()
                                    ? ReadShards(step, *manifest, &match, &found)
                                    : Annotate(manifest.status(), absl::StrCat(path_, "/", name, "/", kManifestName));
    SHARDSTEP_RETURN_IF_ERROR(Agree("shards", status));
    SHARDSTEP_RETURN_IF_ERROR(VerifyDigests(*manifest, found));
    SHARDSTEP_ASSIGN_OR_RETURN(std::vector<Digest> digests,
                               SumDigests(FinishState(*manifest, match), rendezvous_,
                                          "load checkpoint: digests of the state", policy_.deadline));
    if (warnings != nullptr) warnings->insert(warnings->end(), match.warnings.begin(), match.warnings.end());
    return CheckpointInfo{.step = manifest->step,
                          .applied_steps = manifest->applied_steps,
                          .skipped_steps = manifest->skipped_steps,
                          .consecutive_skips = manifest->consecutive_skips,
                          .sum_group = manifest->sum_group,
                          .parameters = ParametersNow(*manifest, match),
                          .options = std::move(manifest->options),
                          .caller_state = std::move(manifest->caller_state),
                          .digests = std::move(digests)};
  }

  // `found`: the digests of what this rank has read.
  absl::Status ReadShards(int64_t step, const Manifest& manifest, TableMatch* match, std::vector<Digest>* found) {
    const std::string name = CheckpointDirectory::NameOf(step);
    const std::string path = absl::StrCat(path_, "/", name, "/", kManifestName);
    if (manifest.step != step) return absl::DataLossError(absl::StrCat(path, ": of step ", manifest.step));
    absl::StatusOr<TableMatch> matched = MatchTables(manifest, layout_, state_, target_);
    SHARDSTEP_RETURN_IF_ERROR(Annotate(matched.status(), path));
    *match = *std::move(matched);
    SHARDSTEP_ASSIGN_OR_RETURN(const DurableFile entry, directory_->OpenEntry(name));
    for (int i = 0; i < static_cast<int>(manifest.files.size()); ++i) {
      SHARDSTEP_RETURN_IF_ERROR(ReadFile(entry, manifest, i, *match, found));
    }
    return absl::OkStatus();
  }

  absl::Status ReadFile(const DurableFile& entry, const Manifest& manifest, int index, const TableMatch& match,
                        std::vector<Digest>* found) {
    std::optional<ShardReader> reader;
    const auto open = [&]() -> absl::Status {
      if (reader.has_value()) return absl::OkStatus();
      SHARDSTEP_ASSIGN_OR_RETURN(ShardReader opened, ShardReader::Open(entry, manifest, index));
      reader.emplace(std::move(opened));
      return absl::OkStatus();
    };
    // A shard that nobody needs is looked at too: damage is found by this load, not by the next one.
    if (index % rendezvous_.world_size() == rendezvous_.rank()) SHARDSTEP_RETURN_IF_ERROR(open());
    const ManifestFile& file = manifest.files[static_cast<size_t>(index)];
    return ForEachPart(file, match, [&](int64_t begin_byte, StateKind kind, const OwnedRun& part) -> absl::Status {
      SHARDSTEP_RETURN_IF_ERROR(open());
      return reader->Read(begin_byte, part, [&](const OwnedRun& piece, absl::Span<const float> values) {
        (*found)[static_cast<size_t>(kind)] +=
            DigestOf(match.manifest_owner[static_cast<size_t>(piece.parameter)], piece.begin_element, values);
        if (Keeps(kind, piece)) state_.Write(kind, piece.bucket, piece.shard_begin_element, values);
      });
    });
  }

  bool Keeps(StateKind kind, const OwnedRun& run) const {
    return kind == StateKind::kMaster ||
           (!target_.parameters[static_cast<size_t>(run.parameter)].frozen && state_.Has(kind, run.bucket));
  }

  // What a file has of all that this rank owns, in the order of the file; also what it does not keep, so that all of
  // the file is verified. Ends with the first error.
  absl::Status ForEachPart(const ManifestFile& file, const TableMatch& match,
                           absl::FunctionRef<absl::Status(int64_t, StateKind, const OwnedRun&)> visit) const {
    int64_t position = file.data_begin_bytes;
    for (const ManifestRange& range : file.ranges) {
      const int parameter = match.layout_owner[static_cast<size_t>(range.parameter)];
      auto run = std::partition_point(runs_.begin(), runs_.end(), [&](const OwnedRun& r) {
        return std::pair(r.parameter, r.end_element) <= std::pair(parameter, range.begin_element);
      });
      for (; run != runs_.end() && run->parameter == parameter && run->begin_element < range.end_element; ++run) {
        OwnedRun part = *run;
        part.begin_element = std::max(run->begin_element, range.begin_element);
        part.end_element = std::min(run->end_element, range.end_element);
        part.shard_begin_element += part.begin_element - run->begin_element;
        const int64_t offset = (part.begin_element - range.begin_element) * int64_t{sizeof(float)};
        SHARDSTEP_RETURN_IF_ERROR(visit(position + offset, range.kind, part));
      }
      position += range.bytes();
    }
    return absl::OkStatus();
  }

  absl::Status VerifyDigests(const Manifest& manifest, absl::Span<const Digest> mine) {
    SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<Digest> found,
                               SumDigests(mine, rendezvous_, "load checkpoint: digests", policy_.deadline));
    for (const StateKind kind : kStateKinds) {
      const Digest& read = found[static_cast<size_t>(kind)];
      const Digest& saved = manifest.digests[static_cast<size_t>(kind)];
      if (read == saved) continue;
      return absl::DataLossError(absl::StrCat(path_, "/", CheckpointDirectory::NameOf(manifest.step), ": digest of ",
                                              Name(kind), " is ", read.ToHex(), ", the manifest says ", saved.ToHex()));
    }
    return absl::OkStatus();
  }

  // Begins the moments that the checkpoint does not have; the digests of what this rank then keeps.
  std::vector<Digest> FinishState(const Manifest& manifest, const TableMatch& match) const {
    std::vector<Digest> digests(std::size(kStateKinds));
    PieceBuffer buffer;
    for (const StateKind kind : kStateKinds) {
      for (const OwnedRun& run : runs_) {
        if (!Keeps(kind, run)) continue;
        const int saved = match.manifest_owner[static_cast<size_t>(run.parameter)];
        const bool begins = !manifest.parameters[static_cast<size_t>(saved)].Has(kind);
        ForEachPiece(run, [&](const OwnedRun& piece) {
          const absl::Span<float> values = buffer.For(piece);
          if (begins) {
            std::fill(values.begin(), values.end(), 0.0F);
            state_.Write(kind, piece.bucket, piece.shard_begin_element, values);
          }
          state_.Read(kind, piece.bucket, piece.shard_begin_element, values);
          digests[static_cast<size_t>(kind)] +=
              DigestOf(piece.parameter, piece.begin_element, absl::Span<const float>(values));
        });
      }
    }
    return digests;
  }

  std::vector<CheckpointParameterInfo> ParametersNow(const Manifest& manifest, const TableMatch& match) const {
    std::vector<CheckpointParameterInfo> parameters(target_.parameters.begin(), target_.parameters.end());
    for (size_t p = 0; p < parameters.size(); ++p) {
      const ManifestParameter& saved = manifest.parameters[static_cast<size_t>(match.manifest_owner[p])];
      const int64_t began = saved.frozen ? manifest.applied_steps : saved.begin_applied_step;
      parameters[p].begin_applied_step = parameters[p].frozen ? 0 : began;
    }
    return parameters;
  }

  const std::string& path_;
  const ShardLayout& layout_;
  const StateAccess& state_;
  const CheckpointTarget& target_;
  Rendezvous& rendezvous_;
  const CheckpointPolicy& policy_;
  FileSystem real_;
  FileSystem& file_system_;
  const std::vector<OwnedRun> runs_;
  std::optional<CheckpointDirectory> directory_;
};

}  // namespace

absl::StatusOr<CheckpointInfo> LoadCheckpoint(const std::string& directory, const ShardLayout& layout,
                                              const StateAccess& state, const CheckpointTarget& target,
                                              Rendezvous& rendezvous, const CheckpointPolicy& policy,
                                              std::vector<std::string>* warnings) {
  return Loader(directory, layout, state, target, rendezvous, policy).Run(warnings);
}

}  // namespace shardstep
