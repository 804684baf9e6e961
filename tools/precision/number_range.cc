#include "shardstep/tools/precision/number_range.h"

#include <limits>

#include "shardstep/tools/precision/fp16.h"

namespace shardstep {
namespace {

// Format: Fp16 or Bf16. Positive patterns are ordered as their values are; infinity is the first that is not finite.
template <typename Format>
FormatLimits LimitsOf(const char* name, Format (*round)(float)) {
  FormatLimits limits{.name = name};
  limits.smallest = ToFloat(Format{1});
  uint16_t bits = 1;
  while (ToFloat(Format{static_cast<uint16_t>(bits + 1)}) < std::numeric_limits<float>::infinity()) ++bits;
  limits.largest = ToFloat(Format{bits});
  // Denormals are evenly spaced, so the first value whose distance to the next one is larger ends the lowest binade.
  bits = 1;
  const auto gap = [](uint16_t at) { return ToFloat(Format{static_cast<uint16_t>(at + 1)}) - ToFloat(Format{at}); };
  while (gap(bits) <= limits.smallest) ++bits;
  limits.smallest_normal = ToFloat(Format{bits}) / 2;
  limits.spacing_at_one = gap(round(1.0f).bits);
  limits.first_integer_lost = 1;
  while (ToFloat(round(static_cast<float>(limits.first_integer_lost))) ==
         static_cast<float>(limits.first_integer_lost)) {
    ++limits.first_integer_lost;
  }
  return limits;
}

}  // namespace

std::vector<FormatLimits> ComputeFormatLimits() { return {LimitsOf("fp16", &ToFp16), LimitsOf("bf16", &ToBf16)}; }

std::vector<RoundTrip> ComputeRoundTrips() {
  std::vector<RoundTrip> result;
  for (const double value : {1e-30, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5, 1e-3, 1.0, 1e3, 1e5, 1e10, 1e30}) {
    const auto in_fp32 = static_cast<float>(value);
    result.push_back({value, ToFloat(ToFp16(in_fp32)), ToFloat(ToBf16(in_fp32))});
  }
  return result;
}

}  // namespace shardstep
