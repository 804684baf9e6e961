#ifndef SHARDSTEP_TOOLS_BENCH_FLAT_MODEL_H_
#define SHARDSTEP_TOOLS_BENCH_FLAT_MODEL_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/comm/bf16.h"
#include "shardstep/comm/buffer.h"
#include "shardstep/comm/host_stream.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/shard_kernels.h"
#include "shardstep/tools/bench/bench_options.h"

namespace shardstep {

/// A piece of a flat model, short enough for one call of MPI: equal shards, one after the other by rank.
struct FlatPiece {
  int64_t begin_element = 0;        ///< of the flat model
  int64_t shard_elements = 0;       ///< a multiple of 1024; ranks times as many in all
  int64_t state_begin_element = 0;  ///< in what each rank keeps of its shards
};

/// Consecutive elements of this rank's shards.
struct FlatRun {
  int64_t begin_element = 0;        ///< of the flat model
  int64_t state_begin_element = 0;  ///< in what this rank keeps
  int64_t elements = 0;
};

/// All parameters one after the other in one gradient and one weight buffer, and padding in the end; of each piece this
/// rank's shard of state. What mpi_baselines.h computes with, whatever moves the data.
class FlatModel {
 public:
  /// Filled with BenchMaster and BenchGradient, every page touched. `threads`: of the kernels. InvalidArgument as
  /// MpiBaseline::Create; ResourceExhausted names what did not fit.
  static absl::StatusOr<std::unique_ptr<FlatModel>> Create(const BenchOptions& options, int rank, int ranks,
                                                           int threads, int64_t largest_piece_elements);
  /// A rank's part of the largest piece: a multiple of 1024.
  static int64_t LargestShard(int64_t largest_piece_elements, int ranks);
  /// With padding.
  static int64_t FlatElements(const BenchOptions& options, int ranks);
  /// Of one rank.
  static int64_t EstimateBytes(const BenchOptions& options, int ranks);

  int rank() const { return rank_; }
  int ranks() const { return ranks_; }
  absl::Span<const FlatPiece> pieces() const { return pieces_; }
  FlatRun OwnShard(const FlatPiece& piece) const;
  /// With padding.
  int64_t flat_elements() const { return ranks_ * state_elements_; }
  int64_t state_elements() const { return state_elements_; }
  const Bf16* gradients() const { return gradients_.as<Bf16>(); }
  Bf16* weights() const { return weights_.as<Bf16>(); }
  /// Without padding.
  absl::Span<const Bf16> logical_weights() const {
    return absl::MakeConstSpan(weights(), static_cast<size_t>(elements_));
  }

  /// The next step, whose gradients are not clipped unless Clip is called before Update.
  void BeginStep();
  /// `squared_norm`: of the sums of all ranks.
  void Clip(double max_norm, double squared_norm);

  /// What `sum` points to holds run.elements each.
  absl::Status Update(const FlatRun& run, const SumArgs& sum);
  /// Adds the squares of the sums to `scan`; the sums go to `sums`, run.elements, unless it is nullptr.
  absl::Status Scan(const FlatRun& run, const SumArgs& sum, float* sums, ScanResult* scan);
  absl::Status Widen(const Bf16* from, int64_t elements, float* to);

 private:
  FlatModel() = default;
  void CutPieces(int64_t largest_piece_elements);
  absl::Status Allocate();
  void Fill(const BenchOptions& options);
  void SetOwn(int64_t state_element, float master);
  // Of a run, without padding; none when it is all padding.
  absl::Span<const Segment> LogicalSegments(const FlatRun& run, Segment* segment) const;

  int rank_ = 0;
  int ranks_ = 1;
  GroupOptions group_;
  int64_t elements_ = 0;
  int64_t state_elements_ = 0;
  std::vector<FlatPiece> pieces_;
  Buffer gradients_, weights_, master_, remainder_, first_moment_, second_moment_;
  std::unique_ptr<ShardKernels> kernels_;
  InlineStream stream_;
  UpdateScalars scalars_;
  std::vector<RuleScalars> rules_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_FLAT_MODEL_H_
