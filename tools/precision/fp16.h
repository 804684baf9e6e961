#ifndef SHARDSTEP_TOOLS_PRECISION_FP16_H_
#define SHARDSTEP_TOOLS_PRECISION_FP16_H_

#include <cstdint>

#include "shardstep/comm/bf16.h"

namespace shardstep {

/// IEEE binary16: 5 bits of exponent and 11 significant bits, where bf16 has 8 and 8.
struct Fp16 {
  uint16_t bits = 0;
};
inline bool operator==(Fp16 a, Fp16 b) { return a.bits == b.bits; }

/// The only NaN that ToFp16 produces.
inline constexpr uint16_t kFp16CanonicalNan = 0x7e00;

/// Exact: every fp16 value is an fp32 value. NaN keeps sign and payload.
inline float ToFloat(Fp16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t exponent = (value.bits >> 10) & 0x1fu;
  const uint32_t fraction = value.bits & 0x3ffu;
  if (exponent == 0x1f) return FloatFromBits(sign | 0x7f800000u | fraction << 13);
  if (exponent != 0) return FloatFromBits(sign | (exponent + 112) << 23 | fraction << 13);
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
  return FloatFromBits(sign | FloatBits(magnitude));
}

/// Rounds to nearest, ties to even; from 65520 on to infinity; every NaN becomes the canonical one.
inline Fp16 ToFp16(float value) {
  const uint32_t sign = (FloatBits(value) >> 16) & 0x8000u;
  const uint32_t magnitude = FloatBits(value) & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return Fp16{kFp16CanonicalNan};
  if (magnitude >= FloatBits(65520.0f)) return Fp16{static_cast<uint16_t>(sign | 0x7c00u)};
  if (magnitude < FloatBits(0x1p-25f)) return Fp16{static_cast<uint16_t>(sign)};
  // Significand in units of fp16's last place: denormals share that of the smallest normal exponent.
  const uint32_t exponent = magnitude >> 23;
  const uint32_t significand = (magnitude & 0x7fffffu) | 0x800000u;
  const uint32_t dropped_bits = exponent >= 113 ? 13 : 126 - exponent;
  const uint32_t kept = significand >> dropped_bits;
  const uint32_t dropped = significand & ((1u << dropped_bits) - 1);
  const uint32_t half = 1u << (dropped_bits - 1);
  const uint32_t round_up = dropped > half || (dropped == half && (kept & 1u) != 0) ? 1 : 0;
  // The leading bit of a normal significand and a carry out of rounding both raise the exponent by one.
  const uint32_t exponent_below = exponent >= 113 ? exponent - 113 : 0;
  return Fp16{static_cast<uint16_t>(sign | ((exponent_below << 10) + kept + round_up))};
}

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_PRECISION_FP16_H_
