#include "shardstep/optimizer/master_weights.h"

#include "shardstep/optimizer/philox.h"

namespace shardstep {

uint16_t RandomBits16(uint64_t seed, int64_t applied_step, int64_t global_element) {
  const auto element = static_cast<uint64_t>(global_element);
  const uint32_t word =
      Philox4x32(seed, static_cast<uint64_t>(applied_step), element / kRandomsPerDraw)[element % kRandomsPerDraw / 2];
  return static_cast<uint16_t>(element % 2 == 0 ? word : word >> 16);
}

}  // namespace shardstep
