#ifndef SHARDSTEP_COMM_BF16_H_
#define SHARDSTEP_COMM_BF16_H_

#include <cstdint>
#include <cstring>

#include "shardstep/comm/host_device.h"

namespace shardstep {

/// A bfloat16 value: the upper 16 bits of an IEEE binary32. A struct and not a plain integer, so that arithmetic on the
/// bits does not compile by accident. Little endian in memory, on the wire and in files.
struct Bf16 {
  uint16_t bits = 0;
};
SHARDSTEP_HOST_DEVICE inline bool operator==(Bf16 a, Bf16 b) { return a.bits == b.bits; }

/// The only NaN that ToBf16 produces.
inline constexpr uint16_t kBf16CanonicalNan = 0x7fc0;

SHARDSTEP_HOST_DEVICE inline uint32_t FloatBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

SHARDSTEP_HOST_DEVICE inline float FloatFromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

/// Exact: every bf16 value is an fp32 value.
SHARDSTEP_HOST_DEVICE inline float ToFloat(Bf16 value) {
  return FloatFromBits(static_cast<uint32_t>(value.bits) << 16);
}

/// Rounds to nearest, ties to even, with integer operations only: denormals are kept whatever the caller's FTZ flags,
/// and every NaN becomes the canonical one (numeric contract 5).
SHARDSTEP_HOST_DEVICE inline Bf16 ToBf16(float value) {
  const uint32_t bits = FloatBits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return Bf16{kBf16CanonicalNan};
  const uint32_t rounding = 0x7fffu + ((bits >> 16) & 1u);
  return Bf16{static_cast<uint16_t>((bits + rounding) >> 16)};
}

SHARDSTEP_HOST_DEVICE inline bool IsFinite(Bf16 value) { return (value.bits & 0x7f80u) != 0x7f80u; }

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_BF16_H_
