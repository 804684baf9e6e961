#ifndef SHARDSTEP_TOOLS_PRECISION_NUMBER_RANGE_H_
#define SHARDSTEP_TOOLS_PRECISION_NUMBER_RANGE_H_

#include <cstdint>
#include <string>
#include <vector>

namespace shardstep {

/// What a format of 16 bits can hold.
struct FormatLimits {
  std::string name;
  double largest = 0;              ///< finite
  double smallest_normal = 0;      ///< below it precision fades
  double smallest = 0;             ///< positive; half of it rounds to zero
  double spacing_at_one = 0;       ///< from 1 to the next larger value
  int64_t first_integer_lost = 0;  ///< the first positive integer that it cannot hold
};
/// Found by trying, not by formula: fp16, then bf16.
std::vector<FormatLimits> ComputeFormatLimits();

/// A number after a round trip through both formats: infinity, zero, or near it.
struct RoundTrip {
  double value = 0;
  double in_fp16 = 0;
  double in_bf16 = 0;
};
/// Gradients of many sizes, powers of ten.
std::vector<RoundTrip> ComputeRoundTrips();

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_PRECISION_NUMBER_RANGE_H_
