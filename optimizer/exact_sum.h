#ifndef SHARDSTEP_OPTIMIZER_EXACT_SUM_H_
#define SHARDSTEP_OPTIMIZER_EXACT_SUM_H_

#include <array>
#include <cstdint>

#include "absl/types/span.h"

namespace shardstep {

/// A sum of non-negative finite doubles without any rounding: a fixed-point number in integer limbs, so the order of
/// additions, merges and ranks cannot change a bit. Covers multiples of 2^kLowestExponent below 2^302; a double's bits
/// below 2^kLowestExponent must be zero (sums of squares of fp32 have none below 2^-298).
///
/// Limbs hold 32 bits of the number each in 64, so 2^31 sums can be added limb by limb, as an all-reduce of int64 does,
/// before carries must be propagated.
class ExactSum {
 public:
  static constexpr int kLowestExponent = -298;
  static constexpr int kLimbs = 19;

  void Add(double value);
  void Merge(const ExactSum& other);
  /// Rounds to nearest even, once.
  double Round() const;

  /// Carries propagated: every limb but the highest in [0, 2^32). What goes into an all-reduce.
  void Normalize();
  absl::Span<int64_t> limbs() { return absl::MakeSpan(limbs_); }
  absl::Span<const int64_t> limbs() const { return absl::MakeConstSpan(limbs_); }

 private:
  std::array<int64_t, kLimbs> limbs_{};
  int64_t additions_since_normalized_ = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_EXACT_SUM_H_
