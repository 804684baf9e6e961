#ifndef SHARDSTEP_OPTIMIZER_PHILOX_H_
#define SHARDSTEP_OPTIMIZER_PHILOX_H_

#include <array>
#include <cstdint>

#include "shardstep/comm/host_device.h"

namespace shardstep {

inline constexpr int kPhiloxRounds = 10;
inline constexpr std::array<uint32_t, 2> kPhiloxMultipliers = {0xD2511F53, 0xCD9E8D57};  // of c0 and c2
inline constexpr std::array<uint32_t, 2> kPhiloxWeyl = {0x9E3779B9, 0xBB67AE85};         // added to k0 and k1

/// Philox-4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC'11): 128 random bits that are a
/// pure function of counter and key. The one generator of this project; docs/numerics.md says what goes into it.
SHARDSTEP_HOST_DEVICE inline constexpr std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter,
                                                                          std::array<uint32_t, 2> key) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t product0 = uint64_t{kPhiloxMultipliers[0]} * counter[0];
    const uint64_t product1 = uint64_t{kPhiloxMultipliers[1]} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(product0)};
    key = {key[0] + kPhiloxWeyl[0], key[1] + kPhiloxWeyl[1]};
  }
  return counter;
}

/// Low word first.
SHARDSTEP_HOST_DEVICE inline constexpr std::array<uint32_t, 2> WordsOf(uint64_t value) {
  return {static_cast<uint32_t>(value), static_cast<uint32_t>(value >> 32)};
}

/// Counter `draw` of the stream `stream` (an applied step, say) of `seed`.
SHARDSTEP_HOST_DEVICE inline constexpr std::array<uint32_t, 4> Philox4x32(uint64_t seed, uint64_t stream,
                                                                          uint64_t draw) {
  return Philox4x32({WordsOf(draw)[0], WordsOf(draw)[1], WordsOf(stream)[0], WordsOf(stream)[1]}, WordsOf(seed));
}

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_PHILOX_H_
