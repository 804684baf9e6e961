#ifndef SHARDSTEP_RUNTIME_MODEL_ACCESS_H_
#define SHARDSTEP_RUNTIME_MODEL_ACCESS_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/rendezvous.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/digest.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/optimizer/shard_state.h"

namespace shardstep {

/// Digests of the whole model: equal on every rank, at every world size.
struct OptimizerDigests {
  Digest weights;
  Digest master;
  Digest first_moment;
  Digest second_moment;

  bool operator==(const OptimizerDigests&) const = default;
};

/// The model seen as a whole, between steps: what a rank owns is filled, set, read and hashed by logical ranges.
/// Collective where said; no step may be in flight. A view: everything it works on lives elsewhere.
class ModelAccess {
 public:
  ModelAccess(const ShardLayout* layout, const ShardState* state, Communicator* communicator, Rendezvous* rendezvous,
              absl::Duration deadline);

  using FillMaster = std::function<void(int p, int64_t begin_element, absl::Span<float> values)>;
  /// Calls `fill` for every owned range of the master weights.
  void Fill(const FillMaster& fill) const;
  /// Zeroes both moments of the shard.
  void ZeroMoments() const;
  /// Collective. weights = bf16(master) for the whole model.
  absl::Status WriteWeights() const;
  /// Collective. master = float(values), weights = values, for one whole parameter. FailedPrecondition, and nothing is
  /// written, when ranks differ in the parameter or its values.
  absl::Status SetParameter(int p, absl::Span<const Bf16> values) const;
  /// Collective. The whole master of one parameter.
  absl::StatusOr<std::vector<float>> ReadMaster(int p) const;
  /// Collective. FailedPrecondition, naming two ranks, when their weights differ.
  absl::StatusOr<OptimizerDigests> Digests() const;
  /// The digest of one of the state's arrays, this rank's part only.
  Digest DigestOfShard(const float* array) const;

 private:
  /// Collective. Every rank has come here.
  absl::Status Barrier(absl::string_view what) const;
  /// Calls `visit(segment, bucket, state index)` for everything this rank owns.
  void VisitOwned(const std::function<void(const Segment&, int bucket, int64_t state_begin)>& visit) const;

  const ShardLayout* layout_;
  const ShardState* state_;
  Communicator* communicator_;
  Rendezvous* rendezvous_;
  absl::Duration deadline_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_MODEL_ACCESS_H_
