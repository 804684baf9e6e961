#include "shardstep/runtime/checkpoint_directory.h"

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

namespace shardstep {
namespace {

constexpr size_t kStepDigits = 12;

std::string RemovingNameOf(int64_t step) { return absl::StrCat(".removing-", CheckpointDirectory::NameOf(step)); }

// The step of "<prefix>step-<12 digits>".
std::optional<int64_t> StepOf(absl::string_view name, absl::string_view prefix) {
  int64_t step = 0;
  if (!absl::ConsumePrefix(&name, prefix) || !absl::ConsumePrefix(&name, "step-") || name.size() != kStepDigits ||
      name.find_first_not_of("0123456789") != absl::string_view::npos || !absl::SimpleAtoi(name, &step)) {
    return std::nullopt;
  }
  return step;
}

absl::Status CheckSizes(const DurableFile& directory, const Manifest& manifest) {
  const int64_t world_size = static_cast<int64_t>(manifest.files.size());
  for (int64_t i = 0; i < world_size; ++i) {
    SHARDSTEP_ASSIGN_OR_RETURN(const DurableFile file, directory.OpenFile(ShardFileName(i, world_size)));
    SHARDSTEP_ASSIGN_OR_RETURN(const int64_t size_bytes, file.SizeBytes());
    const int64_t expected = manifest.files[static_cast<size_t>(i)].size_bytes;
    if (size_bytes == expected) continue;
    return absl::DataLossError(absl::StrCat(file.path(), ": ", size_bytes, " bytes, the manifest says ", expected));
  }
  return absl::OkStatus();
}

}  // namespace

CheckpointDirectory::CheckpointDirectory(DurableFile directory) : directory_(std::move(directory)) {}

absl::StatusOr<CheckpointDirectory> CheckpointDirectory::Open(FileSystem& file_system, const std::string& path) {
  SHARDSTEP_ASSIGN_OR_RETURN(DurableFile directory, DurableFile::OpenDirectory(file_system, path));
  return CheckpointDirectory(std::move(directory));
}

std::string CheckpointDirectory::NameOf(int64_t step) { return absl::StrFormat("step-%012d", step); }
std::string CheckpointDirectory::SavingNameOf(int64_t step) { return absl::StrCat(".saving-", NameOf(step)); }

absl::StatusOr<std::vector<int64_t>> CheckpointDirectory::Steps() const {
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> names, directory_.List());
  std::vector<int64_t> steps;
  for (const std::string& name : names) {
    if (const std::optional<int64_t> step = StepOf(name, "")) steps.push_back(*step);
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

absl::StatusOr<DurableFile> CheckpointDirectory::OpenEntry(const std::string& name) const {
  absl::StatusOr<DurableFile> entry = directory_.OpenSubdirectory(name);
  if (entry.ok() || entry.status().code() != absl::StatusCode::kNotFound) return entry;
  return absl::DataLossError(entry.status().message());
}

absl::StatusOr<std::string> CheckpointDirectory::ReadManifestBytes(const std::string& name) const {
  SHARDSTEP_ASSIGN_OR_RETURN(const DurableFile entry, OpenEntry(name));
  SHARDSTEP_ASSIGN_OR_RETURN(const DurableFile file, entry.OpenFile(kManifestName));
  SHARDSTEP_ASSIGN_OR_RETURN(const int64_t size_bytes, file.SizeBytes());
  if (size_bytes > kManifestPreambleBytes + kMaxManifestBytes) {
    return absl::DataLossError(absl::StrCat(file.path(), ": ", size_bytes, " bytes"));
  }
  std::string bytes(static_cast<size_t>(size_bytes), '\0');
  SHARDSTEP_RETURN_IF_ERROR(file.Read(0, absl::MakeSpan(bytes)));
  return bytes;
}

absl::Status CheckpointDirectory::Verify(const std::string& name, int64_t step) const {
  SHARDSTEP_ASSIGN_OR_RETURN(const std::string bytes, ReadManifestBytes(name));
  const absl::StatusOr<Manifest> manifest = DecodeManifest(bytes);
  SHARDSTEP_RETURN_IF_ERROR(Annotate(manifest.status(), absl::StrCat(directory_.path(), "/", name, "/MANIFEST")));
  if (manifest->step != step) return absl::DataLossError(absl::StrCat(name, " holds step ", manifest->step));
  SHARDSTEP_ASSIGN_OR_RETURN(const DurableFile entry, OpenEntry(name));
  return CheckSizes(entry, *manifest);
}

absl::Status CheckpointDirectory::RemoveLeftovers() const {
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> names, directory_.List());
  for (const std::string& name : names) {
    if (!StepOf(name, ".saving-").has_value() && !StepOf(name, ".removing-").has_value()) continue;
    SHARDSTEP_RETURN_IF_ERROR(directory_.RemoveDirectory(name));
  }
  return absl::OkStatus();
}

absl::Status CheckpointDirectory::MakeSaving(int64_t step) const {
  const std::string name = SavingNameOf(step);
  if (directory_.file_system().MakeDirectory(directory_.descriptor(), name.c_str()) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, "make directory", absl::StrCat(directory_.path(), "/", name));
}

absl::Status CheckpointDirectory::Rename(const std::string& from, const std::string& to) const {
  if (directory_.file_system().Rename(directory_.descriptor(), from.c_str(), to.c_str()) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, "rename", absl::StrCat(directory_.path(), "/", from, " to ", to));
}

absl::Status CheckpointDirectory::Commit(int64_t step) const {
  const std::string saving = SavingNameOf(step);
  const std::string name = NameOf(step);
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<int64_t> steps, Steps());
  if (std::find(steps.begin(), steps.end(), step) != steps.end()) return Replace(step);
  SHARDSTEP_RETURN_IF_ERROR(Rename(saving, name));
  const absl::Status status = directory_.Sync();
  if (!status.ok()) Rename(name, saving).IgnoreError();
  return status;
}

absl::Status CheckpointDirectory::Replace(int64_t step) const {
  const std::string saving = SavingNameOf(step);
  const std::string name = NameOf(step);
  FileSystem& file_system = directory_.file_system();
  if (file_system.Exchange(directory_.descriptor(), saving.c_str(), name.c_str()) == 0) {
    const absl::Status status = directory_.Sync();
    if (!status.ok()) file_system.Exchange(directory_.descriptor(), saving.c_str(), name.c_str());
    return status;
  }
  const int error = errno;
  const std::string path = absl::StrCat(directory_.path(), "/", name);
  if (error != EINVAL && error != ENOSYS && error != EOPNOTSUPP) return ErrnoStatus(error, "exchange", path);
  // Between the two renames neither is there, which only a damaged one allows.
  if (Verify(name, step).ok()) {
    return absl::PermissionDeniedError(
        absl::StrCat(path, ": exists and is whole, and this file system cannot exchange two directories"));
  }
  const std::string removing = RemovingNameOf(step);
  SHARDSTEP_RETURN_IF_ERROR(Rename(name, removing));
  absl::Status status = Rename(saving, name);
  if (status.ok()) {
    status = directory_.Sync();
    if (!status.ok()) Rename(name, saving).IgnoreError();
  }
  if (!status.ok()) Rename(removing, name).IgnoreError();
  return status;
}

absl::Status CheckpointDirectory::Discard(int64_t step) const { return directory_.RemoveDirectory(SavingNameOf(step)); }

absl::Status CheckpointDirectory::Remove(int64_t step) const {
  SHARDSTEP_RETURN_IF_ERROR(Rename(NameOf(step), RemovingNameOf(step)));
  return directory_.RemoveDirectory(RemovingNameOf(step));
}

absl::Status CheckpointDirectory::Retain(int64_t newest_step, int keep) const {
  SHARDSTEP_RETURN_IF_ERROR(Verify(NameOf(newest_step), newest_step));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<int64_t> steps, Steps());
  int whole = 0;
  for (const int64_t step : steps) {
    if (step > newest_step) continue;
    const absl::Status status = Verify(NameOf(step), step);
    const bool removable = status.ok() || status.code() == absl::StatusCode::kDataLoss;
    if (whole >= keep && removable) SHARDSTEP_RETURN_IF_ERROR(Remove(step));
    if (status.ok()) ++whole;
  }
  return absl::OkStatus();
}

}  // namespace shardstep
