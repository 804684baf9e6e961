#ifndef SHARDSTEP_COMM_SMALL_REDUCTION_H_
#define SHARDSTEP_COMM_SMALL_REDUCTION_H_

#include <array>
#include <cstdint>

#include "shardstep/comm/host_device.h"

namespace shardstep {

/// The content of one small all-reduce, at most 1 KiB: integers only, so its bits do not depend on any order.
struct SmallReduction {
  static constexpr int kSums = 32;
  static constexpr int kMinima = 64;
  /// The sum to which every rank contributes 1: a reduction is whole when it is the number of ranks.
  static constexpr int kArrivals = kSums - 1;
  std::array<int64_t, kSums> sums{};       // added over ranks; the caller keeps the sums below 2^63
  std::array<uint64_t, kMinima> minima{};  // minimum over ranks

  /// What the all-reduce makes of two contributions. Sums of a caller who lets them overflow wrap equally everywhere.
  SHARDSTEP_HOST_DEVICE void Merge(const SmallReduction& other) {
    for (int i = 0; i < kSums; ++i) {
      sums[i] = static_cast<int64_t>(static_cast<uint64_t>(sums[i]) + static_cast<uint64_t>(other.sums[i]));
    }
    for (int i = 0; i < kMinima; ++i) minima[i] = other.minima[i] < minima[i] ? other.minima[i] : minima[i];
  }
  bool operator==(const SmallReduction&) const = default;
};
static_assert(sizeof(SmallReduction) <= 1024);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_SMALL_REDUCTION_H_
