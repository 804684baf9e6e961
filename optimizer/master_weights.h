#ifndef SHARDSTEP_OPTIMIZER_MASTER_WEIGHTS_H_
#define SHARDSTEP_OPTIMIZER_MASTER_WEIGHTS_H_

#include <cstdint>

#include "shardstep/comm/bf16.h"
#include "shardstep/comm/host_device.h"
#include "shardstep/optimizer/philox.h"

namespace shardstep {

/// The 32 bits of a master weight as bf16 weights and 16 bits more. The weights are the master rounded to nearest, ties
/// away from zero: ties to even could not be inverted. Every pattern that is not a NaN comes back exactly; a NaN as
/// 0x7fc00000.
struct SplitMaster {
  Bf16 weight;
  uint16_t remainder = 0;
};
SHARDSTEP_HOST_DEVICE inline SplitMaster Split(float master) {
  const uint32_t bits = FloatBits(master);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {.weight = {kBf16CanonicalNan}};
  return {.weight = {static_cast<uint16_t>((bits + 0x8000u) >> 16)}, .remainder = static_cast<uint16_t>(bits)};
}
SHARDSTEP_HOST_DEVICE inline float Join(SplitMaster split) {
  const uint32_t rounded_up = split.remainder >> 15;
  return FloatFromBits((uint32_t{split.weight.bits} - rounded_up) << 16 | split.remainder);
}

/// `value` rounded to bf16 at random: up with the probability of how far it is on its way there. Adds 16 random bits
/// below the bf16's last place and truncates. Infinities stay, NaN becomes the canonical one.
SHARDSTEP_HOST_DEVICE inline Bf16 RoundStochastically(float value, uint16_t random) {
  const uint32_t bits = FloatBits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {kBf16CanonicalNan};
  return {static_cast<uint16_t>((bits + random) >> 16)};
}

/// Elements that share a draw of the generator (philox.h).
inline constexpr int64_t kRandomsPerDraw = 8;
/// 16 random bits that are a pure function of (seed, applied step, global element): nothing is kept between draws, and
/// their order does not matter. docs/numerics.md states the generator.
SHARDSTEP_HOST_DEVICE inline uint16_t RandomBits16(uint64_t seed, int64_t applied_step, int64_t global_element) {
  const auto element = static_cast<uint64_t>(global_element);
  const uint32_t word =
      Philox4x32(seed, static_cast<uint64_t>(applied_step), element / kRandomsPerDraw)[element % kRandomsPerDraw / 2];
  return static_cast<uint16_t>(element % 2 == 0 ? word : word >> 16);
}

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_MASTER_WEIGHTS_H_
