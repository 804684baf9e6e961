#ifndef SHARDSTEP_RUNTIME_CHECKPOINT_TABLE_H_
#define SHARDSTEP_RUNTIME_CHECKPOINT_TABLE_H_

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "shardstep/comm/rendezvous.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/digest.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/runtime/checkpoint.h"
#include "shardstep/runtime/manifest.h"

namespace shardstep {

/// A dtype by its safetensors name.
std::string DtypeName(DType dtype);

/// InvalidArgument unless `parameters` has one for every parameter of the layout, and `state` keeps the moments that
/// they say.
absl::Status CheckKept(const ShardLayout& layout, const StateAccess& state,
                       absl::Span<const CheckpointParameterInfo> parameters);

/// The parameters of `layout` as a manifest lists them: what is kept of each as `state` keeps it.
std::vector<ManifestParameter> MakeTable(const ShardLayout& layout, const StateAccess& state,
                                         absl::Span<const CheckpointParameterInfo> parameters);

/// Where a manifest's parameters are at the caller, by the parameters that own state on either side.
struct TableMatch {
  std::vector<int> layout_owner;      ///< by parameter of the manifest
  std::vector<int> manifest_owner;    ///< by parameter of the layout
  std::vector<std::string> warnings;  ///< what is loaded and yet not as it was saved
};

/// Matches by name, whatever the order; LoadCheckpoint says what InvalidArgument lists and what is warned of.
absl::StatusOr<TableMatch> MatchTables(const Manifest& manifest, const ShardLayout& layout, const StateAccess& state,
                                       const CheckpointTarget& target);

/// Collective. The sums over all ranks, which pass equally many.
absl::StatusOr<std::vector<Digest>> SumDigests(absl::Span<const Digest> mine, Rendezvous& rendezvous,
                                               absl::string_view what, absl::Duration deadline);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_CHECKPOINT_TABLE_H_
