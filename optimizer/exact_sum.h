#ifndef SHARDSTEP_OPTIMIZER_EXACT_SUM_H_
#define SHARDSTEP_OPTIMIZER_EXACT_SUM_H_

#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstdint>

#include "shardstep/comm/host_device.h"

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

  SHARDSTEP_HOST_DEVICE void Add(double value) {
    const Position at = PositionOf(value);
    limbs_[at.limb] += at.words[0];
    limbs_[at.limb + 1] += at.words[1];
    if (at.words[2] != 0) limbs_[at.limb + 2] += at.words[2];
    if (++additions_since_normalized_ >= kAdditionsPerNormalization) Normalize();
  }
  SHARDSTEP_HOST_DEVICE void Merge(const ExactSum& other) {
    if (additions_since_normalized_ + other.additions_since_normalized_ + 1 >= kAdditionsPerNormalization) Normalize();
    for (int i = 0; i < kLimbs; ++i) limbs_[i] += other.limbs_[i];
    additions_since_normalized_ += other.additions_since_normalized_ + 1;
  }
  /// Rounds to nearest even, once.
  SHARDSTEP_HOST_DEVICE double Round() const;

  /// Carries propagated: every limb but the highest in [0, 2^32). What goes into an all-reduce.
  SHARDSTEP_HOST_DEVICE void Normalize() {
    for (int i = 0; i + 1 < kLimbs; ++i) {
      limbs_[i + 1] += limbs_[i] >> kLimbBits;
      limbs_[i] &= kLimbMask;
    }
    additions_since_normalized_ = 0;
  }
  SHARDSTEP_HOST_DEVICE std::array<int64_t, kLimbs>& limbs() { return limbs_; }
  SHARDSTEP_HOST_DEVICE const std::array<int64_t, kLimbs>& limbs() const { return limbs_; }

  /// What adds a double: three words from limb `limb` on, of which the last may be 0 and its limb not be there.
  struct Position {
    int limb = 0;
    int64_t words[3] = {};
  };
  SHARDSTEP_HOST_DEVICE static Position PositionOf(double value);

 private:
  static constexpr int kLimbBits = 32;
  static constexpr int64_t kLimbMask = (int64_t{1} << kLimbBits) - 1;
  // An addition puts less than 2^32 into a limb, which has room for 2^31 of them; half of that is safe to merge.
  static constexpr int64_t kAdditionsPerNormalization = int64_t{1} << 30;
  static constexpr int kMantissaBits = 52;
  static constexpr int kExponentBias = 1075;  // of the mantissa read as an integer

  std::array<int64_t, kLimbs> limbs_{};
  int64_t additions_since_normalized_ = 0;
};

SHARDSTEP_HOST_DEVICE inline ExactSum::Position ExactSum::PositionOf(double value) {
  const auto bits = std::bit_cast<uint64_t>(value);
  const uint64_t biased_exponent = bits >> kMantissaBits;
  uint64_t mantissa = bits & ((uint64_t{1} << kMantissaBits) - 1);
  if (biased_exponent != 0) mantissa |= uint64_t{1} << kMantissaBits;
  if (mantissa == 0) return {};

  // value = mantissa * 2^(kLowestExponent + position)
  int position = static_cast<int>(biased_exponent == 0 ? 1 : biased_exponent) - kExponentBias - kLowestExponent;
  if (position < 0) {
    mantissa = position > -64 ? mantissa >> -position : 0;
    position = 0;
  }
  const int limb = position / kLimbBits;
  const int shift = position % kLimbBits;
  const uint64_t low = mantissa << shift;
  const uint64_t high = shift == 0 ? 0 : mantissa >> (64 - shift);
  assert(value >= 0 && limb + (high != 0 ? 2 : 1) < kLimbs);
  return {.limb = limb,
          .words = {static_cast<int64_t>(low & kLimbMask), static_cast<int64_t>(low >> kLimbBits),
                    static_cast<int64_t>(high)}};
}

SHARDSTEP_HOST_DEVICE inline double ExactSum::Round() const {
  ExactSum sum = *this;
  sum.Normalize();
  // The highest limb may hold more than 32 bits.
  std::array<uint32_t, kLimbs + 1> words;
  for (int i = 0; i < kLimbs; ++i) words[i] = static_cast<uint32_t>(sum.limbs_[i] & kLimbMask);
  words[kLimbs] = static_cast<uint32_t>(sum.limbs_[kLimbs - 1] >> kLimbBits);

  int top = kLimbs;
  while (top >= 0 && words[top] == 0) --top;
  if (top < 0) return 0;

  // The upper 64 bits of the number, leading bit first, and whether anything is left below them.
  const auto word = [&](int i) { return i < 0 ? uint64_t{0} : uint64_t{words[i]}; };
  const int leading_zeros = std::countl_zero(words[top]);
  uint64_t leading = word(top) << kLimbBits | word(top - 1);
  if (leading_zeros > 0) leading = leading << leading_zeros | word(top - 2) >> (kLimbBits - leading_zeros);
  bool rest = static_cast<uint32_t>(word(top - 2) << leading_zeros) != 0;
  for (int i = top - 3; i >= 0 && !rest; --i) rest = words[i] != 0;

  constexpr int kDropped = 64 - (kMantissaBits + 1);
  constexpr uint64_t kHalf = uint64_t{1} << (kDropped - 1);
  const uint64_t remainder = leading & (2 * kHalf - 1);
  uint64_t mantissa = leading >> kDropped;
  if (remainder > kHalf || (remainder == kHalf && (rest || (mantissa & 1) != 0))) ++mantissa;
  const int exponent = kLowestExponent + (top - 1) * kLimbBits - leading_zeros + kDropped;
  return std::ldexp(static_cast<double>(mantissa), exponent);
}

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_EXACT_SUM_H_
