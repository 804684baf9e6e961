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

/// Where a manifest's parameters and kinds are at the caller.
struct TableMatch {
  std::vector<int> layout_parameter;  ///< by parameter of the manifest
  std::vector<int> array;             ///< by kind of the manifest
};

/// Matches by name, whatever the order. InvalidArgument lists every parameter and kind that only one side has, and
/// every parameter whose shape or dtype differs.
absl::StatusOr<TableMatch> MatchTables(const Manifest& manifest, const ShardLayout& layout,
                                       absl::Span<const CheckpointArray> arrays);

/// Collective. The sums over all ranks, which pass equally many.
absl::StatusOr<std::vector<Digest>> SumDigests(absl::Span<const Digest> mine, Rendezvous& rendezvous,
                                               absl::string_view what, absl::Duration deadline);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_CHECKPOINT_TABLE_H_
