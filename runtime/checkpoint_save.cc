#include <iterator>
#include <optional>
#include <utility>

#include "shardstep/runtime/checkpoint.h"
#include "shardstep/runtime/checkpoint_directory.h"
#include "shardstep/runtime/checkpoint_shard.h"
#include "shardstep/runtime/checkpoint_table.h"
#include "shardstep/runtime/safetensors.h"
#include "shardstep/runtime/version.h"

namespace shardstep {
namespace {

absl::Status Validate(const ShardLayout& layout, const StateAccess& state, const CheckpointInfo& info,
                      const Rendezvous& rendezvous, const CheckpointPolicy& policy) {
  if (layout.world_size() != rendezvous.world_size()) return absl::InvalidArgumentError("layout of another world size");
  if (info.step < 0 || info.step > kMaxCheckpointStep) return absl::InvalidArgumentError("step: not from 0 to 10^12-1");
  if (info.sum_group < 1) return absl::InvalidArgumentError(absl::StrCat("sum_group = ", info.sum_group, ": below 1"));
  if (info.digests.size() != std::size(kStateKinds)) return absl::InvalidArgumentError("digests: not one per kind");
  SHARDSTEP_RETURN_IF_ERROR(CheckKept(layout, state, info.parameters));
  if (policy.keep < 1) return absl::InvalidArgumentError(absl::StrCat("keep = ", policy.keep, ": below 1"));
  if (!IsChunkBytes(policy.chunk_bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("chunk_bytes = ", policy.chunk_bytes, ": not a multiple of 64 from 64 to 2^30"));
  }
  for (int p = 0; p < layout.parameter_count(); ++p) {
    const ParameterSpec& spec = layout.parameter(p);
    if (!IsUtf8(spec.name)) return absl::InvalidArgumentError(absl::StrCat("parameter ", p, ": name is not UTF-8"));
    const int64_t begin = info.parameters[static_cast<size_t>(p)].begin_applied_step;
    if (begin < 0 || begin > info.applied_steps) {
      return absl::InvalidArgumentError(
          absl::StrCat("parameter \"", spec.name, "\": begin_applied_step = ", begin, ": not from 0 to applied_steps"));
    }
  }
  return absl::OkStatus();
}

// One save on one rank. Phases are local; Run orders them and makes all ranks agree after each.
class Saver {
 public:
  Saver(const std::string& directory, const ShardLayout& layout, const StateAccess& state, const CheckpointInfo& info,
        Rendezvous& rendezvous, const CheckpointPolicy& policy)
      : path_(directory),
        layout_(layout),
        state_(state),
        info_(info),
        rendezvous_(rendezvous),
        policy_(policy),
        file_system_(policy.file_system != nullptr ? *policy.file_system : real_),
        first_(rendezvous.rank() == 0),
        saving_(CheckpointDirectory::SavingNameOf(info.step)) {}

  absl::Status Run() {
    SHARDSTEP_RETURN_IF_ERROR(Agree("arguments", Validate(layout_, state_, info_, rendezvous_, policy_)));
    SHARDSTEP_RETURN_IF_ERROR(CompareArguments());
    runs_ = OwnedRuns(layout_, rendezvous_.rank());
    FillManifest();
    const absl::Status status = WriteAll();
    if (!status.ok()) {
      if (first_ && directory_.has_value()) directory_->Discard(info_.step).IgnoreError();
      return status;
    }
    return Annotate(Agree("retention", first_ ? Retain() : absl::OkStatus()),
                    absl::StrCat(CheckpointDirectory::NameOf(info_.step), " is saved, removing older ones failed"));
  }

 private:
  absl::Status Agree(absl::string_view phase, const absl::Status& mine) {
    return AgreeOnStatus(rendezvous_, absl::StrCat("save checkpoint: ", phase), mine, policy_.deadline);
  }

  absl::StatusOr<std::vector<std::string>> Gather(absl::string_view phase, absl::string_view bytes) {
    return rendezvous_.AllGatherBytes(absl::StrCat("save checkpoint: ", phase), bytes, policy_.deadline);
  }

  absl::Status CompareArguments() {
    std::string mine = absl::StrCat("directory ", path_, ", step ", info_.step, ", applied_steps ", info_.applied_steps,
                                    ", chunk_bytes ", policy_.chunk_bytes);
    absl::StrAppend(&mine, ", sum_group ", info_.sum_group, ", parameters of hash ", HashOfParameters());
    for (const StateKind kind : kStateKinds) {
      absl::StrAppend(&mine, ", ", Name(kind), " of digest ", info_.digests[static_cast<size_t>(kind)].ToHex());
    }
    SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> all, Gather("comparison", mine));
    for (size_t rank = 1; rank < all.size(); ++rank) {
      if (all[rank] == all[0]) continue;
      return absl::FailedPreconditionError(
          absl::StrCat("save checkpoint: rank 0 saves {", all[0], "}, rank ", rank, " {", all[rank], "}"));
    }
    return absl::OkStatus();
  }

  uint64_t HashOfParameters() const {
    std::string text;
    for (const CheckpointParameterInfo& parameter : info_.parameters) {
      const UpdateKind& update = parameter.update;
      absl::StrAppend(&text, Name(update.rule), update.momentum, Name(update.master), parameter.frozen, ",",
                      parameter.begin_applied_step, ";");
    }
    return ChunkHash(text);
  }

  void FillManifest() {
    manifest_.library_version = kVersion;
    manifest_.step = info_.step;
    manifest_.applied_steps = info_.applied_steps;
    manifest_.skipped_steps = info_.skipped_steps;
    manifest_.consecutive_skips = info_.consecutive_skips;
    manifest_.chunk_bytes = policy_.chunk_bytes;
    manifest_.options = info_.options;
    manifest_.sum_group = info_.sum_group;
    manifest_.parameters = MakeTable(layout_, state_, info_.parameters);
    manifest_.digests = info_.digests;
    manifest_.caller_state = info_.caller_state;
  }

  absl::Status WriteAll() {
    SHARDSTEP_RETURN_IF_ERROR(Agree("preparation", first_ ? Prepare() : absl::OkStatus()));
    const absl::StatusOr<WrittenShard> written = WriteMyShard();
    SHARDSTEP_RETURN_IF_ERROR(Agree("shards", written.status()));
    SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> files,
                               Gather("descriptions", EncodeManifestFile(written->file)));
    SHARDSTEP_RETURN_IF_ERROR(CompareDigests(written->digests));
    return Agree("manifest", first_ ? Commit(files) : absl::OkStatus());
  }

  absl::Status Prepare() {
    SHARDSTEP_RETURN_IF_ERROR(MakeDirectories(file_system_, path_));
    SHARDSTEP_ASSIGN_OR_RETURN(CheckpointDirectory directory, CheckpointDirectory::Open(file_system_, path_));
    SHARDSTEP_RETURN_IF_ERROR(directory.RemoveLeftovers());
    directory_.emplace(std::move(directory));
    return directory_->MakeSaving(info_.step);
  }

  absl::StatusOr<WrittenShard> WriteMyShard() {
    if (!first_) {
      SHARDSTEP_ASSIGN_OR_RETURN(CheckpointDirectory directory, CheckpointDirectory::Open(file_system_, path_));
      directory_.emplace(std::move(directory));
    }
    SHARDSTEP_ASSIGN_OR_RETURN(const DurableFile saving, directory_->OpenEntry(saving_));
    return WriteShard(saving, manifest_, rendezvous_.rank(), rendezvous_.world_size(), runs_, state_);
  }

  // A load refuses what does not match the digests, so a save that would never load must not look good.
  absl::Status CompareDigests(absl::Span<const Digest> mine) {
    SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<Digest> all,
                               SumDigests(mine, rendezvous_, "save checkpoint: digests", policy_.deadline));
    for (const StateKind kind : kStateKinds) {
      const Digest& found = all[static_cast<size_t>(kind)];
      const Digest& given = info_.digests[static_cast<size_t>(kind)];
      if (found == given) continue;
      return absl::FailedPreconditionError(
          absl::StrCat("save checkpoint: digest of ", Name(kind), " is ", found.ToHex(), ", given ", given.ToHex()));
    }
    return absl::OkStatus();
  }

  absl::Status Commit(const std::vector<std::string>& files) {
    for (const std::string& bytes : files) {
      SHARDSTEP_ASSIGN_OR_RETURN(ManifestFile file, DecodeManifestFile(bytes));
      manifest_.files.push_back(std::move(file));
    }
    SHARDSTEP_ASSIGN_OR_RETURN(const std::string bytes, EncodeManifest(manifest_));
    SHARDSTEP_ASSIGN_OR_RETURN(const DurableFile saving, directory_->OpenEntry(saving_));
    SHARDSTEP_ASSIGN_OR_RETURN(DurableFile file, saving.CreateFile(kManifestName));
    SHARDSTEP_RETURN_IF_ERROR(file.Write(bytes));
    SHARDSTEP_RETURN_IF_ERROR(file.Sync());
    SHARDSTEP_RETURN_IF_ERROR(file.Close());
    SHARDSTEP_RETURN_IF_ERROR(saving.Sync());
    SHARDSTEP_RETURN_IF_ERROR(directory_->Verify(saving_, info_.step));
    return directory_->Commit(info_.step);
  }

  // A checkpoint that was replaced is a leftover by now.
  absl::Status Retain() {
    SHARDSTEP_RETURN_IF_ERROR(directory_->RemoveLeftovers());
    return directory_->Retain(info_.step, policy_.keep);
  }

  const std::string& path_;
  const ShardLayout& layout_;
  const StateAccess& state_;
  const CheckpointInfo& info_;
  Rendezvous& rendezvous_;
  const CheckpointPolicy& policy_;
  FileSystem real_;
  FileSystem& file_system_;
  const bool first_;
  const std::string saving_;
  std::vector<OwnedRun> runs_;
  Manifest manifest_;
  std::optional<CheckpointDirectory> directory_;
};

}  // namespace

absl::Status SaveCheckpoint(const std::string& directory, const ShardLayout& layout, const StateAccess& state,
                            const CheckpointInfo& info, Rendezvous& rendezvous, const CheckpointPolicy& policy) {
  return Saver(directory, layout, state, info, rendezvous, policy).Run();
}

}  // namespace shardstep
