#ifndef SHARDSTEP_TOOLS_PRECISION_RANDOM_BITS_H_
#define SHARDSTEP_TOOLS_PRECISION_RANDOM_BITS_H_

#include <cstdint>
#include <initializer_list>

namespace shardstep {

/// A counter-based generator: 64 random bits that are a pure function of (seed, step, index), so nothing is kept
/// between draws and their order does not matter. Each word passes the finalizer of SplitMix64.
inline uint64_t RandomBits(uint64_t seed, uint64_t step, uint64_t index) {
  uint64_t state = 0;
  for (const uint64_t word : {seed, step, index}) {
    state = (state ^ word) + 0x9e3779b97f4a7c15u;
    state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9u;
    state = (state ^ (state >> 27)) * 0x94d049bb133111ebu;
    state ^= state >> 31;
  }
  return state;
}

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_PRECISION_RANDOM_BITS_H_
