#include "shardstep/runtime/manifest.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <utility>

#include "shardstep/proto/checkpoint.pb.h"
#include "shardstep/runtime/manifest_check.h"
#include "shardstep/runtime/manifest_features.h"

namespace shardstep {
namespace {

static_assert(std::endian::native == std::endian::little, "the preamble is little endian and read in place");

constexpr char kMagic[] = {'S', 'H', 'R', 'D', 'S', 'T', 'E', 'P'};
constexpr char kStateDtype[] = "F32";
constexpr Rule kRules[] = {Rule::kAdamW, Rule::kSgd, Rule::kLion};
constexpr Master kMasters[] = {Master::kFp32, Master::kSplit, Master::kNone};

struct Preamble {
  char magic[8];
  uint32_t version;
  uint32_t zero;
  uint64_t feature_flags;
  uint64_t message_bytes;
  uint64_t message_hash;
  uint64_t preamble_hash;
};
static_assert(sizeof(Preamble) == kManifestPreambleBytes);
constexpr size_t kHashedPreambleBytes = 40;

absl::Status Missing(absl::string_view field) { return absl::DataLossError(absl::StrCat(field, ": missing")); }

// The value of that name in `values`, or nullptr.
template <typename T, size_t N>
const T* Find(const T (&values)[N], absl::string_view name) {
  const T* found = std::find_if(values, values + N, [name](T value) { return Name(value) == name; });
  return found == values + N ? nullptr : found;
}

void ToProto(const ManifestFile& file, proto::CheckpointFile* message) {
  message->set_size_bytes(file.size_bytes);
  message->set_data_begin_bytes(file.data_begin_bytes);
  for (const ManifestRange& range : file.ranges) {
    proto::CheckpointRange* out = message->add_range();
    out->set_parameter(range.parameter);
    out->set_kind(static_cast<int>(range.kind));
    out->set_begin_element(range.begin_element);
    out->set_end_element(range.end_element);
  }
  message->mutable_chunk_hash()->Add(file.chunk_hashes.begin(), file.chunk_hashes.end());
}

absl::StatusOr<ManifestFile> FromProto(const proto::CheckpointFile& message) {
  if (!message.has_size_bytes() || !message.has_data_begin_bytes()) return Missing("size_bytes or data_begin_bytes");
  ManifestFile file;
  file.size_bytes = message.size_bytes();
  file.data_begin_bytes = message.data_begin_bytes();
  file.ranges.reserve(static_cast<size_t>(message.range_size()));
  for (const proto::CheckpointRange& range : message.range()) {
    if (!range.has_parameter() || !range.has_kind() || !range.has_begin_element() || !range.has_end_element()) {
      return Missing("a field of range");
    }
    if (range.kind() < 0 || range.kind() >= static_cast<int>(std::size(kStateKinds))) {
      return absl::DataLossError(absl::StrCat("range of kind ", range.kind(), ", which is not in the tables"));
    }
    file.ranges.push_back({range.parameter(), kStateKinds[range.kind()], range.begin_element(), range.end_element()});
  }
  file.chunk_hashes.assign(message.chunk_hash().begin(), message.chunk_hash().end());
  return file;
}

void ToProto(const ManifestParameter& parameter, proto::CheckpointParameter* message) {
  message->set_name(parameter.name);
  message->mutable_shape()->Add(parameter.shape.begin(), parameter.shape.end());
  message->set_group(parameter.group);
  message->set_weight_dtype(parameter.weight_dtype);
  message->set_gradient_dtype(parameter.gradient_dtype);
  message->set_master(std::string(Name(parameter.update.master)));
  message->set_rule(std::string(Name(parameter.update.rule)));
  message->set_frozen(parameter.frozen);
  message->set_tied_to(parameter.tied_to);
  if (parameter.update.rule == Rule::kSgd) message->set_momentum(parameter.update.momentum);
  if (parameter.begin_applied_step != 0) message->set_begin_applied_step(parameter.begin_applied_step);
}

absl::StatusOr<UpdateKind> UpdateFromProto(const proto::CheckpointParameter& message) {
  const Rule* rule = Find(kRules, message.rule());
  if (rule == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("rule \"", message.rule(), "\" is not known to this library"));
  }
  const Master* master = Find(kMasters, message.master());
  if (master == nullptr) return absl::DataLossError(absl::StrCat("master \"", message.master(), "\""));
  if (message.has_momentum() != (*rule == Rule::kSgd)) {
    return absl::DataLossError(
        absl::StrCat("momentum: ", message.has_momentum() ? "there" : "missing", " with rule ", message.rule()));
  }
  return UpdateKind{.rule = *rule, .master = *master, .momentum = !message.has_momentum() || message.momentum()};
}

absl::StatusOr<ManifestParameter> FromProto(const proto::CheckpointParameter& message) {
  if (!message.has_name()) return Missing("parameter.name");
  const std::string context = absl::StrCat("parameter \"", message.name(), "\"");
  if (!message.has_group() || !message.has_weight_dtype() || !message.has_gradient_dtype() || !message.has_master() ||
      !message.has_rule() || !message.has_frozen() || !message.has_tied_to()) {
    return Missing(absl::StrCat("a field of ", context));
  }
  if (message.has_begin_applied_step() && message.begin_applied_step() < 1) {
    return absl::DataLossError(absl::StrCat(context, ": begin_applied_step below 1"));
  }
  absl::StatusOr<UpdateKind> update = UpdateFromProto(message);
  SHARDSTEP_RETURN_IF_ERROR(Annotate(update.status(), context));
  ManifestParameter parameter;
  parameter.name = message.name();
  parameter.shape.assign(message.shape().begin(), message.shape().end());
  parameter.group = message.group();
  parameter.weight_dtype = message.weight_dtype();
  parameter.gradient_dtype = message.gradient_dtype();
  parameter.update = *update;
  parameter.frozen = message.frozen();
  parameter.begin_applied_step = message.begin_applied_step();
  parameter.tied_to = message.tied_to();
  return parameter;
}

absl::StatusOr<std::vector<Digest>> DigestsFromProto(const proto::Checkpoint& message) {
  if (message.kind_size() != static_cast<int>(std::size(kStateKinds))) {
    return absl::DataLossError(absl::StrCat(message.kind_size(), " kinds, not ", std::size(kStateKinds)));
  }
  std::vector<Digest> digests;
  for (const StateKind state_kind : kStateKinds) {
    const proto::CheckpointKind& kind = message.kind(static_cast<int>(state_kind));
    if (!kind.has_name() || !kind.has_dtype() || !kind.has_digest_low() || !kind.has_digest_high()) {
      return Missing("a field of kind");
    }
    if (kind.name() != Name(state_kind) || kind.dtype() != kStateDtype) {
      return absl::DataLossError(absl::StrCat("kind \"", kind.name(), "\" of dtype \"", kind.dtype(), "\", not \"",
                                              Name(state_kind), "\" of \"", kStateDtype, "\""));
    }
    digests.push_back({.low = kind.digest_low(), .high = kind.digest_high()});
  }
  return digests;
}

absl::Status RequireFields(const proto::Checkpoint& message) {
  const std::pair<absl::string_view, bool> fields[] = {{"library_version", message.has_library_version()},
                                                       {"step", message.has_step()},
                                                       {"applied_steps", message.has_applied_steps()},
                                                       {"skipped_steps", message.has_skipped_steps()},
                                                       {"consecutive_skips", message.has_consecutive_skips()},
                                                       {"chunk_bytes", message.has_chunk_bytes()},
                                                       {"caller_state", message.has_caller_state()}};
  for (const auto& [name, present] : fields) {
    if (!present) return Missing(name);
  }
  return absl::OkStatus();
}

absl::StatusOr<Manifest> FromProto(proto::Checkpoint& message) {
  SHARDSTEP_RETURN_IF_ERROR(RequireFields(message));
  if (message.has_sum_group() && message.sum_group() < 2) return absl::DataLossError("sum_group: below 2");
  Manifest manifest;
  manifest.library_version = message.library_version();
  manifest.step = message.step();
  manifest.applied_steps = message.applied_steps();
  manifest.skipped_steps = message.skipped_steps();
  manifest.consecutive_skips = message.consecutive_skips();
  manifest.chunk_bytes = message.chunk_bytes();
  if (message.has_sum_group()) manifest.sum_group = message.sum_group();
  manifest.options.assign(message.option().begin(), message.option().end());
  for (const proto::CheckpointParameter& parameter : message.parameter()) {
    SHARDSTEP_ASSIGN_OR_RETURN(ManifestParameter value, FromProto(parameter));
    manifest.parameters.push_back(std::move(value));
  }
  SHARDSTEP_ASSIGN_OR_RETURN(manifest.digests, DigestsFromProto(message));
  for (int i = 0; i < message.file_size(); ++i) {
    // Equality with the one name that this file can have leaves no room for a path.
    const std::string name = ShardFileName(i, message.file_size());
    if (message.file(i).name() != name) {
      return absl::DataLossError(absl::StrCat("file ", i, " is named \"", message.file(i).name(), "\", not ", name));
    }
    SHARDSTEP_ASSIGN_OR_RETURN(ManifestFile value, FromProto(message.file(i)));
    manifest.files.push_back(std::move(value));
  }
  manifest.caller_state = std::move(*message.mutable_caller_state());
  return manifest;
}

}  // namespace

std::string ShardFileName(int64_t rank, int64_t world_size) {
  return absl::StrCat("shard-", rank, "-of-", world_size, ".safetensors");
}

std::string ShardKey(const Manifest& manifest, const ManifestRange& range) {
  return absl::StrCat(manifest.parameters[static_cast<size_t>(range.parameter)].name, "/", Name(range.kind), "@",
                      range.begin_element, "-", range.end_element);
}

bool ManifestParameter::Has(StateKind kind) const {
  if (tied()) return false;
  if (kind == StateKind::kMaster) return true;
  return !frozen && (kind == StateKind::kFirstMoment ? update.has_first_moment() : update.has_second_moment());
}

bool IsChunkBytes(int64_t chunk_bytes) {
  return chunk_bytes >= 64 && chunk_bytes <= (int64_t{1} << 30) && chunk_bytes % 64 == 0;
}

uint64_t ChunkHash(absl::Span<const char> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

std::string SealManifest(absl::string_view message, uint32_t version, uint64_t feature_flags) {
  Preamble preamble = {};
  std::memcpy(preamble.magic, kMagic, sizeof(kMagic));
  preamble.version = version;
  preamble.feature_flags = feature_flags;
  preamble.message_bytes = message.size();
  preamble.message_hash = ChunkHash(message);
  preamble.preamble_hash = XXH3_64bits(&preamble, kHashedPreambleBytes);
  std::string bytes(reinterpret_cast<const char*>(&preamble), sizeof(preamble));
  bytes.append(message.data(), message.size());
  return bytes;
}

absl::StatusOr<std::string> EncodeManifest(const Manifest& manifest) {
  proto::Checkpoint message;
  message.set_library_version(manifest.library_version);
  message.set_step(manifest.step);
  message.set_applied_steps(manifest.applied_steps);
  message.set_skipped_steps(manifest.skipped_steps);
  message.set_consecutive_skips(manifest.consecutive_skips);
  message.set_chunk_bytes(manifest.chunk_bytes);
  message.mutable_option()->Add(manifest.options.begin(), manifest.options.end());
  for (const ManifestParameter& parameter : manifest.parameters) ToProto(parameter, message.add_parameter());
  for (const StateKind kind : kStateKinds) {
    proto::CheckpointKind* out = message.add_kind();
    const Digest& digest = manifest.digests[static_cast<size_t>(kind)];
    out->set_name(std::string(Name(kind)));
    out->set_dtype(kStateDtype);
    out->set_digest_low(digest.low);
    out->set_digest_high(digest.high);
  }
  for (const ManifestFile& file : manifest.files) {
    const int rank = message.file_size();
    proto::CheckpointFile* out = message.add_file();
    out->set_name(ShardFileName(rank, static_cast<int64_t>(manifest.files.size())));
    ToProto(file, out);
  }
  message.set_caller_state(manifest.caller_state);
  if (manifest.sum_group != 1) message.set_sum_group(manifest.sum_group);
  std::string bytes;
  if (static_cast<int64_t>(message.ByteSizeLong()) > kMaxManifestBytes || !message.SerializeToString(&bytes)) {
    return absl::ResourceExhaustedError("manifest above 2^30 bytes");
  }
  return SealManifest(bytes, kCheckpointVersion, FeaturesOf(manifest));
}

absl::StatusOr<Manifest> DecodeManifest(absl::string_view bytes) {
  Preamble preamble;
  if (bytes.size() < sizeof(preamble)) return absl::DataLossError("shorter than its preamble");
  std::memcpy(&preamble, bytes.data(), sizeof(preamble));
  bytes.remove_prefix(sizeof(preamble));
  if (std::memcmp(preamble.magic, kMagic, sizeof(kMagic)) != 0) return absl::DataLossError("not a manifest (magic)");
  if (preamble.preamble_hash != XXH3_64bits(&preamble, kHashedPreambleBytes)) {
    return absl::DataLossError("preamble: hash differs");
  }
  if (preamble.message_bytes != bytes.size()) {
    return absl::DataLossError(absl::StrCat("message of ", bytes.size(), " bytes, not ", preamble.message_bytes));
  }
  if (preamble.message_hash != ChunkHash(bytes)) return absl::DataLossError("message: hash differs");
  if (preamble.version != kCheckpointVersion || preamble.zero != 0) {
    return absl::FailedPreconditionError(absl::StrCat("format version ", preamble.version,
                                                      " is not known to this library, which reads version ",
                                                      kCheckpointVersion));
  }
  SHARDSTEP_RETURN_IF_ERROR(CheckFeaturesKnown(preamble.feature_flags));
  proto::Checkpoint message;
  if (static_cast<int64_t>(bytes.size()) > kMaxManifestBytes ||
      !message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::DataLossError("message: not a proto.Checkpoint");
  }
  SHARDSTEP_ASSIGN_OR_RETURN(Manifest manifest, FromProto(message));
  const uint64_t features = FeaturesOf(manifest);
  if (features != preamble.feature_flags) {
    return absl::DataLossError(absl::StrCat("feature flags: ", FeatureList(preamble.feature_flags),
                                            ", the message uses: ", FeatureList(features)));
  }
  SHARDSTEP_RETURN_IF_ERROR(CheckManifest(&manifest));
  return manifest;
}

std::string EncodeManifestFile(const ManifestFile& file) {
  proto::CheckpointFile message;
  ToProto(file, &message);
  return message.SerializeAsString();
}

absl::StatusOr<ManifestFile> DecodeManifestFile(absl::string_view bytes) {
  proto::CheckpointFile message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return Missing("a file's description");
  return FromProto(message);
}

}  // namespace shardstep
