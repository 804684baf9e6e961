#ifndef SHARDSTEP_RUNTIME_MANIFEST_H_
#define SHARDSTEP_RUNTIME_MANIFEST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/digest.h"
#include "shardstep/optimizer/update_rule.h"
#include "shardstep/runtime/state_access.h"

namespace shardstep {

/// docs/checkpoint_format.md says what each field means.
struct ManifestParameter {
  std::string name;
  std::vector<int64_t> shape;
  int64_t elements = 0;  ///< product of the shape
  int group = 0;
  std::string weight_dtype;
  std::string gradient_dtype;
  UpdateKind update;  ///< but for its rounding, which is not saved
  bool frozen = false;
  int64_t begin_applied_step = 0;
  std::string tied_to;
  int owner = 0;  ///< the parameter that has the state: itself unless tied

  bool tied() const { return !tied_to.empty(); }
  /// Whether `kind` of it is saved.
  bool Has(StateKind kind) const;
};

/// Elements [begin_element, end_element) of one parameter and kind: one key of a shard.
struct ManifestRange {
  int parameter = 0;
  StateKind kind = StateKind::kMaster;
  int64_t begin_element = 0;
  int64_t end_element = 0;

  int64_t bytes() const { return (end_element - begin_element) * int64_t{sizeof(float)}; }
  bool operator==(const ManifestRange&) const = default;
};

struct ManifestFile {
  int64_t size_bytes = 0;
  int64_t data_begin_bytes = 0;
  std::vector<ManifestRange> ranges;  ///< in the order of the data
  std::vector<uint64_t> chunk_hashes;
};

/// A whole checkpoint, described. Files are those of ranks 0..n-1, named by ShardFileName.
struct Manifest {
  std::string library_version;
  int64_t step = 0;
  int64_t applied_steps = 0;
  int64_t skipped_steps = 0;
  int64_t consecutive_skips = 0;
  int64_t chunk_bytes = 0;
  int64_t sum_group = 1;
  std::vector<std::string> options;
  std::vector<ManifestParameter> parameters;
  std::vector<Digest> digests;  ///< by StateKind
  std::vector<ManifestFile> files;
  std::string caller_state;
};

inline constexpr char kManifestName[] = "MANIFEST";
inline constexpr int64_t kMaxManifestBytes = int64_t{1} << 30;
inline constexpr uint32_t kCheckpointVersion = 1;
inline constexpr int64_t kManifestPreambleBytes = 48;

/// "shard-<rank>-of-<world_size>.safetensors"
std::string ShardFileName(int64_t rank, int64_t world_size);
/// The key of a range in a shard: "<parameter>/<kind>@<begin>-<end>".
std::string ShardKey(const Manifest& manifest, const ManifestRange& range);
/// A multiple of 64, from 64 to 2^30.
bool IsChunkBytes(int64_t chunk_bytes);
/// XXH3-64.
uint64_t ChunkHash(absl::Span<const char> bytes);

/// The bytes of a MANIFEST file. ResourceExhausted above kMaxManifestBytes.
absl::StatusOr<std::string> EncodeManifest(const Manifest& manifest);
/// The preamble of the format in front of a message.
std::string SealManifest(absl::string_view message, uint32_t version = kCheckpointVersion, uint64_t feature_flags = 0);

/// Verifies and parses. DataLoss when the bytes are damaged or the manifest is not consistent in itself: a field is
/// missing or out of range, or the ranges do not cover every element of every kind that a parameter has exactly once.
/// FailedPrecondition, naming it, when the bytes are sound and the version, a feature or a rule is newer than this
/// library.
absl::StatusOr<Manifest> DecodeManifest(absl::string_view bytes);

/// One file's part, as ranks send it to the one that writes the manifest.
std::string EncodeManifestFile(const ManifestFile& file);
absl::StatusOr<ManifestFile> DecodeManifestFile(absl::string_view bytes);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_MANIFEST_H_
