#include "shardstep/optimizer/master_weights.h"

#include <cmath>

#include "shardstep/optimizer/philox.h"

namespace shardstep {

SplitMaster Split(float master) {
  if (std::isnan(master)) return {.weight = {kBf16CanonicalNan}};
  const uint32_t bits = FloatBits(master);
  return {.weight = {static_cast<uint16_t>((bits + 0x8000u) >> 16)}, .remainder = static_cast<uint16_t>(bits)};
}

float Join(SplitMaster split) {
  const uint32_t rounded_up = split.remainder >> 15;
  return FloatFromBits((uint32_t{split.weight.bits} - rounded_up) << 16 | split.remainder);
}

Bf16 RoundStochastically(float value, uint16_t random) {
  if (std::isnan(value)) return {kBf16CanonicalNan};
  return {static_cast<uint16_t>((FloatBits(value) + random) >> 16)};
}

uint16_t RandomBits16(uint64_t seed, int64_t applied_step, int64_t global_element) {
  const auto element = static_cast<uint64_t>(global_element);
  const uint32_t word =
      Philox4x32(seed, static_cast<uint64_t>(applied_step), element / kRandomsPerDraw)[element % kRandomsPerDraw / 2];
  return static_cast<uint16_t>(element % 2 == 0 ? word : word >> 16);
}

}  // namespace shardstep
