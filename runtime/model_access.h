#ifndef SHARDSTEP_RUNTIME_MODEL_ACCESS_H_
#define SHARDSTEP_RUNTIME_MODEL_ACCESS_H_

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/rendezvous.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/digest.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/runtime/optimizer_digests.h"
#include "shardstep/runtime/parameter_groups.h"
#include "shardstep/runtime/state_access.h"

namespace shardstep {

class ShardKernels;
struct DigestSum;

/// The model seen as a whole, between steps: what a rank owns is filled, set, read and hashed by logical ranges.
/// Collective where said; no step may be in flight. A view: everything it works on lives elsewhere.
class ModelAccess {
 public:
  ModelAccess(const ShardLayout* layout, const ParameterGroups* groups, const StateAccess* state, Communicator* host,
              Rendezvous* rendezvous, absl::Duration deadline);

  using FillMaster = std::function<void(int p, int64_t begin_element, absl::Span<float> values)>;
  /// Calls `fill` for all owned ranges of the master weights, piece by piece; this rank's weights become the rounded
  /// master. Nobody may be reading weights.
  void Fill(const FillMaster& fill) const;
  /// Zeroes what this rank keeps of the moments of parameter p.
  void ZeroMoments(int p) const;
  /// master = the weights as they are, in this rank's part of parameter p.
  void MasterFromWeights(int p) const;
  /// Writes this rank's part of one array of a whole parameter, which there must be; of a master also the weights.
  void SetState(int p, StateKind kind, absl::Span<const float> values) const;
  /// Collective. One array of a whole parameter, which there must be.
  absl::StatusOr<std::vector<float>> ReadState(int p, StateKind kind) const;
  /// Collective. FailedPrecondition, naming two ranks, when their weights differ. The arrays are hashed where they
  /// are, by `kernels` on `stream`, and only the sums come to the host: of weights and by StateKind, in `memory`.
  absl::StatusOr<OptimizerDigests> Digests(ShardKernels& kernels, Stream& stream, Memory& memory,
                                           std::array<DigestSum, 4>& sums) const;

 private:
  /// Calls `visit` for everything this rank owns, in pieces of at most kPieceElements that begin at multiples of 1024.
  void VisitOwned(absl::FunctionRef<void(int b, const Segment& piece)> visit) const;
  /// Adds to *weights what all ranks have, and to shards[kind] what this one owns.
  absl::Status LaunchDigests(ShardKernels& kernels, Stream& stream, DigestSum* weights, DigestSum* shards) const;

  const ShardLayout* layout_;
  const ParameterGroups* groups_;
  const StateAccess* state_;
  Communicator* host_;
  Rendezvous* rendezvous_;
  absl::Duration deadline_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_MODEL_ACCESS_H_
